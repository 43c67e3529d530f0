"""Configuration: a Python file with get_config(), typed overrides from the command line, the resolved config as JSON.

Whatever a user can misspell ends in an InputError that names the key, what was given, what is allowed and the nearest
right name, before anything compiles.
"""
from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jaxbp.data import DataConfig
from jaxbp.errors import InputError, unknown
from jaxbp.losses import Loss, Penalty
from jaxbp.models import ModelConfig
from jaxbp.train.optimizers import OptimizerConfig, Schedule


@dataclass(frozen=True)
class Run:
    """How long, in what batches, and how often to look."""

    epochs: int  # passes over the training part, at least 1
    batch_size: int | None = 128  # examples a step, at least 1; 1 is online, None is the full batch
    seed: int = 0  # of initial weights, order and dropout
    shuffle: bool = True  # a new order of the examples in every epoch
    evaluate_every: int = 1  # epochs between evaluations, at least 1
    steps_per_call: int = 100  # steps in one call of the compiled program, at least 1; results do not depend on it

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "evaluate_every", "steps_per_call"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise InputError(f"{key} must be at least 1, got {value}")


@dataclass(frozen=True)
class Config:
    """One experiment."""

    data: DataConfig
    model: ModelConfig
    loss: Loss
    optimizer: OptimizerConfig
    run: Run
    penalty: Penalty = Penalty()  # on parameters chosen by path, added to the loss


def load(path: str | Path) -> Config:
    """The config that the file's get_config() returns. Raises InputError where the file gives none."""
    path = Path(path)
    if not path.is_file():
        near = [str(p) for p in sorted(path.parent.glob("*.py"))]
        raise unknown("config file", str(path), near) if near else InputError(f"there is no config file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except TypeError as error:
        raise _misspelt(path, error) from error
    except Exception as error:
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise InputError(f"{path}: get_config() must return a jaxbp.config.Config, got {type(config).__name__}")
    check_types(config, f"{path}: config")
    return config


def override(config: Config, words: Sequence[str]) -> Config:
    """The config with '--config.optimizer.learning_rate=0.01' and the like applied, all at once.

    tyro reads each value by the field's type. Raises InputError for an unknown key, a wrong type, an impossible value.
    """
    changes: dict[str, Any] = {}
    types = {f"--config.{key}": kind for key, kind in keys(config)}
    for word in words:
        name, equals, text = word.partition("=")
        if name not in types:
            raise unknown("option", name, [*types, "--config", "--workdir"])
        if not equals:
            raise InputError(f"{name} needs a value: {name}=VALUE")
        if name in changes:
            raise InputError(f"{name} is given twice")
        changes[name] = _parse(name, types[name], text)
    return _replace(config, {name.removeprefix("--config."): value for name, value in changes.items()})


def keys(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """('optimizer.learning_rate', type) of every leaf of the config."""
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from keys(value, f"{path}.")
        else:
            yield path, hints[field.name]


def check_types(config: Any, where: str) -> None:
    """Raises InputError at the first field whose value is not of its declared type."""
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if not _fits(value, kind):
            raise InputError(f"{where}.{name} must be {_spell(kind)}, got {value!r}")
        if dataclasses.is_dataclass(value):
            check_types(value, f"{where}.{name}")


def to_json(config: Any) -> dict[str, Any]:
    """The resolved config as plain data: every dataclass a mapping that names its type."""
    encode = lambda value: to_json(value) if dataclasses.is_dataclass(value) else value
    fields = {field.name: encode(getattr(config, field.name)) for field in dataclasses.fields(config)}
    return {"type": type(config).__name__} | fields


def from_json(data: dict[str, Any], kind: type = Config) -> Any:
    """The config that to_json wrote. Raises InputError for a type that is not a known `kind`, or for unknown keys."""
    kinds = {cls.__name__: cls for cls in _family(kind)}
    if data["type"] not in kinds:
        raise unknown(kind.__name__, data["type"], kinds)
    cls = kinds[data["type"]]
    hints = get_type_hints(cls)
    for name in data.keys() - hints.keys() - {"type"}:
        raise unknown(f"key of {cls.__name__}", name, hints)

    def decode(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return from_json(value, hints[name])
        return tuple(value) if isinstance(value, list) else value

    return cls(**{name: decode(name, value) for name, value in data.items() if name != "type"})


def _family(kind: type) -> Iterator[type]:
    yield kind
    for cls in kind.__subclasses__():
        yield from _family(cls)


def _parse(name: str, kind: Any, text: str) -> Any:
    import tyro

    words = [w for w in re.split(r"[,\s()]+", text) if w] if get_origin(kind) is tuple else [text]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return tyro.cli(kind, args=words, config=(tyro.conf.FlagConversionOff,), console_outputs=False)
    except SystemExit:
        raise InputError(f"{name} must be {_spell(kind)}, got '{text}'") from None


def _replace(config: Any, changes: dict[str, Any]) -> Any:
    """dataclasses.replace for dotted paths; every object on the way is made once, with all its changes."""
    inner: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        head, _, rest = path.partition(".")
        inner.setdefault(head, {})[rest] = value
    new = {head: sub[""] if "" in sub else _replace(getattr(config, head), sub) for head, sub in inner.items()}
    return dataclasses.replace(config, **new) if new else config


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(item, get_args(kind)[0]) for item in value)
    if get_args(kind):  # a union
        return any(_fits(value, one) for one in get_args(kind))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _spell(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    if get_origin(kind) is tuple:
        return f"{_spell(get_args(kind)[0])}s separated by commas"
    if get_args(kind):
        return " or ".join(_spell(one) for one in get_args(kind))
    names = {int: "an integer", float: "a number", bool: "True or False", str: "a text", NoneType: "None"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _misspelt(path: Path, error: TypeError) -> InputError:
    """A clear line for a keyword that a config dataclass does not have."""
    found = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    bases = (Config, Run, Penalty, DataConfig, ModelConfig, Loss, OptimizerConfig, Schedule)
    for cls in (cls for base in bases for cls in _family(base) if found and cls.__name__ == found[1]):
        return InputError(f"{path}: {unknown(f'key of {cls.__name__}', found[2], get_type_hints(cls))}")
    return InputError(f"{path}: {error}")
