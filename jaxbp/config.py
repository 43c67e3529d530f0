"""Configuration: a Python file with get_config(), typed overrides from the command line, the resolved config as JSON.

Whatever a user can misspell ends in an InputError that names the key, what was given, what is allowed and the nearest
right name, before anything compiles.
"""
from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin

from jaxbp.data import DataConfig
from jaxbp.errors import InputError, unknown
from jaxbp.losses import Loss, Penalty
from jaxbp.models import ModelConfig
from jaxbp.train.optimizers import OptimizerConfig, Schedule
from jaxbp.typed import Typed, field_types, spell


@dataclass(frozen=True)
class Run(Typed):
    """How long, in what batches, and how often to look."""

    epochs: int  # passes over the training part, at least 1
    batch_size: int | None = 128  # examples a step, at least 1; 1 is online, None is the full batch
    seed: int = 0  # of initial weights, order and dropout, in 0..4294967295
    shuffle: bool = True  # a new order of the examples in every epoch
    evaluate_every: int = 1  # epochs between evaluations, at least 1
    steps_per_call: int = 100  # steps in one call of the compiled program, at least 1; results do not depend on it

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("epochs", "batch_size", "evaluate_every", "steps_per_call"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise InputError(f"{key} must be at least 1, got {value}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed must lie in 0..{2**32 - 1}, got {self.seed}")


@dataclass(frozen=True)
class Config(Typed):
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
    module = ModuleType(f"jaxbp_config_{path.stem}")
    sys.modules[module.__name__] = module  # where dataclasses of the file look their annotations up
    try:
        exec(compile(path.read_text(), path, "exec"), vars(module))
        config = module.get_config()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except TypeError as error:
        raise _misspelt(path, error) from error
    except Exception as error:
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise InputError(f"{path}: get_config() must return a jaxbp.config.Config, got {type(config).__name__}")
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
    hints = field_types(type(config))
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from keys(value, f"{path}.")
        else:
            yield path, hints[field.name]


def to_json(config: Any) -> dict[str, Any]:
    """The resolved config as plain data: every dataclass a mapping that names its type."""
    encode = lambda value: to_json(value) if dataclasses.is_dataclass(value) else value
    fields = {field.name: encode(getattr(config, field.name)) for field in dataclasses.fields(config)}
    return {"type": type(config).__name__} | fields


def from_json(data: dict[str, Any], kind: type = Config) -> Any:
    """The config that to_json wrote. Raises InputError for a type that is not a known `kind`, or for unknown keys."""
    kinds = {cls.__name__: cls for cls in _family(kind)}
    if data.get("type") not in kinds:
        raise unknown(kind.__name__, str(data.get("type")), kinds)
    cls = kinds[data["type"]]
    hints = field_types(cls)
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

    if kind is str:
        return text
    words = [w for w in re.split(r"[,\s()]+", text) if w] if get_origin(kind) is tuple else [text]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return tyro.cli(kind, args=words, config=(tyro.conf.FlagConversionOff,), console_outputs=False)
    except SystemExit:
        raise InputError(f"{name} must be {spell(kind)}, got '{text}'") from None


def _replace(config: Any, changes: dict[str, Any], where: str = "--config") -> Any:
    """dataclasses.replace for dotted paths; every object on the way is made once, with all its changes."""
    inner: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        head, _, rest = path.partition(".")
        inner.setdefault(head, {})[rest] = value
    new = {head: sub[""] if "" in sub else _replace(getattr(config, head), sub, f"{where}.{head}")
           for head, sub in inner.items()}
    try:
        return dataclasses.replace(config, **new)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _misspelt(path: Path, error: TypeError) -> InputError:
    """A clear line for a keyword that a config dataclass does not have."""
    found = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    bases = (Config, Run, Penalty, DataConfig, ModelConfig, Loss, OptimizerConfig, Schedule)
    for cls in (cls for base in bases for cls in _family(base) if found and cls.__name__ == found[1]):
        return InputError(f"{path}: {unknown(f'key of {cls.__name__}', found[2], field_types(cls))}")
    return InputError(f"{path}: {error}")
