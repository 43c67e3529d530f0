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
from typing import Any, get_args, get_origin

import optax

from jaxbp.core import PyTree
from jaxbp.data import DataConfig
from jaxbp.errors import InputError, unknown
from jaxbp.losses import Loss, Penalty
from jaxbp.models import ModelConfig
from jaxbp.optim import (
    Objective,
    OptimizerConfig,  # with it the kinds of optimizer that a text may name
    noise_meter,
)
from jaxbp.typed import Count, NotNegative, Pattern, Seed, Typed, field_types, fits, spell


@dataclass(frozen=True)
class Run(Typed):
    """How long, in what batches, and how often to look.

    Args:
        epochs: passes over the training part
        batch_size: examples a step; 1 is online, None is the full batch
        seed: of initial weights, order and dropout
        shuffle: a new order of the examples in every epoch
        evaluate_every: epochs between evaluations
        steps_per_call: steps in one call of the compiled program; results do not depend on it
        micro_batches: parts in which a batch is worked through, a divisor of batch_size: less memory
        patience: evaluations without a better validation loss before the run stops; None: never
        checkpoint_seconds: time between checkpoints; 0 writes one after every call
        keep: checkpoints that stay
        noise_scale_every: steps between measurements of the gradient noise scale; None: never
    """

    epochs: Count
    batch_size: Count | None = 128
    seed: Seed = 0
    shuffle: bool = True
    evaluate_every: Count = 1
    steps_per_call: Count = 100
    micro_batches: Count = 1
    patience: Count | None = None
    checkpoint_seconds: NotNegative = 60.0
    keep: Count = 2
    noise_scale_every: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size is not None and self.batch_size % self.micro_batches:
            raise InputError(f"Run: micro_batches must divide batch_size={self.batch_size}, got {self.micro_batches}")


@dataclass(frozen=True)
class Config(Typed):
    """One experiment.

    Args:
        data: where the examples come from, and how they are split and scaled
        model: the layers
        loss: what is made small
        optimizer: how
        run: how long
        penalty: on parameters chosen by path, added to the loss
    """

    data: DataConfig
    model: ModelConfig
    loss: Loss
    optimizer: OptimizerConfig
    run: Run
    penalty: Penalty = Penalty()

    def objective(self, spec: PyTree) -> Objective:
        """What the run makes small, on batches of inputs like `spec`."""
        penalties = (self.penalty,) if self.penalty.l1 or self.penalty.l2 else ()
        return Objective(self.model.build(), self.loss, penalties, spec)

    def build_optimizer(self, steps: int, spec: PyTree) -> optax.GradientTransformationExtraArgs:
        """The optimizer of a run of `steps` steps; where the noise scale is asked for, what measures it comes first."""
        objective = self.objective(spec)
        optimizer = self.optimizer.build(steps, objective)
        if self.run.noise_scale_every is None:
            return optimizer
        return optax.chain(noise_meter(objective, self.run.noise_scale_every), optimizer)


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


def show_help(config: Config) -> None:
    """Prints every key that a command may override, with its type, meaning and value in this config; by tyro."""
    import tyro

    options = dataclasses.make_dataclass("options", [("config", Config)], frozen=True)
    with contextlib.suppress(SystemExit):
        tyro.cli(
            options,
            args=["--help"],
            default=options(config),
            prog="keys of the config",
            use_underscores=True,
            config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
        )


def keys(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """('optimizer.learning_rate', type) of every leaf of the config that a text can give."""
    hints = field_types(type(config))
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from keys(value, f"{path}.")
        elif not any(isinstance(part, type) and issubclass(part, Typed) for part in get_args(hints[field.name])):
            yield path, hints[field.name]


def to_json(config: Any) -> dict[str, Any]:
    """The resolved config as plain data: every dataclass a mapping that names its type."""

    def encode(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(encode, value))
        return to_json(value) if dataclasses.is_dataclass(value) else value

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
        if isinstance(value, dict):  # of a kind such as Schedule, Plateau | None or tuple[Group, ...]
            return from_json(value, (get_args(hints[name]) or [hints[name]])[0])
        return tuple(decode(name, item) for item in value) if isinstance(value, list) else value

    return cls(**{name: decode(name, value) for name, value in data.items() if name != "type"})


def _family(kind: type) -> Iterator[type]:
    yield kind
    for cls in kind.__subclasses__():
        yield from _family(cls)


def _parse(name: str, kind: Any, text: str) -> Any:
    import tyro

    if kind in (str, Pattern):
        return text
    words = [w for w in re.split(r"[,\s()]+", text) if w] if get_origin(kind) is tuple else [text]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            value = tyro.cli(kind, args=words, config=(tyro.conf.FlagConversionOff,), console_outputs=False)
    except SystemExit:
        value = text
    if not fits(value, kind):
        raise InputError(f"{name} must be {spell(kind)}, got '{text}'")
    return value


def _replace(config: Any, changes: dict[str, Any], where: str = "--config") -> Any:
    """dataclasses.replace for dotted paths; every object on the way is made once, with all its changes."""
    inner: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        head, _, rest = path.partition(".")
        inner.setdefault(head, {})[rest] = value
    new = {
        head: sub[""] if "" in sub else _replace(getattr(config, head), sub, f"{where}.{head}")
        for head, sub in inner.items()
    }
    try:
        return dataclasses.replace(config, **new)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _misspelt(path: Path, error: TypeError) -> InputError:
    """A clear line for a keyword that a config dataclass does not have."""
    found = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    for cls in (cls for cls in _family(Typed) if found and cls.__name__ == found[1]):
        return InputError(f"{path}: {unknown(f'key of {cls.__name__}', found[2], field_types(cls))}")
    return InputError(f"{path}: {error}")
