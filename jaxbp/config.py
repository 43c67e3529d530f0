"""Configuration: a Python file with get_config(), typed overrides from the command line, the resolved config as JSON.

Whatever a user can misspell ends in an InputError that names the key, what was given, what is allowed and the nearest
right name, before anything compiles.

Every part of a `Config` is a frozen dataclass that derives from `Typed`. There are three conventions, and `Run`, which
holds plain settings:

| convention                     | base class                    | what the run calls                                  |
|--------------------------------|-------------------------------|-----------------------------------------------------|
| a thing that is its own config | Loss, Penalty                 | the thing: forward and backward, value and gradient |
| a config that builds           | ModelConfig                   | build() -> Layer                                    |
|                                | OptimizerConfig               | build(steps, objective) -> optax transformation     |
|                                | Schedule, in an optimizer     | build(learning_rate, steps) -> optax schedule       |
| a config that loads            | DataConfig                    | load() -> Splits                                    |
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
from jaxbp.optim import Objective, OptimizerConfig, noise_meter  # this import defines the optimizers that JSON names
from jaxbp.typed import Count, NotNegative, Pattern, Seed, Typed, field_types, fits, spell


@dataclass(frozen=True)
class Run(Typed):
    """The length of a run, its batches, and how often it is evaluated and saved.

    Args:
        epochs: passes over the training part
        batch_size: examples in a step; 1 is online learning, None is the full batch
        seed: seed of initial weights, order and dropout
        shuffle: whether every epoch has a new order of the examples
        evaluate_every: epochs between evaluations
        steps_per_call: steps in one call of the compiled program; results do not depend on it
        micro_batches: equal parts that a batch is computed in, to save memory; a divisor of batch_size
        patience: evaluations without a better validation loss before the run stops; None: never
        checkpoint_seconds: time between checkpoints; 0 writes one after every call
        keep_checkpoints: how many checkpoints stay, the newest
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
    keep_checkpoints: Count = 2
    noise_scale_every: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size is not None and self.batch_size % self.micro_batches:
            raise InputError(f"Run: micro_batches must divide batch_size={self.batch_size}, got {self.micro_batches}")


@dataclass(frozen=True)
class Config(Typed):
    """One experiment.

    Args:
        data: the data set, its split and its scaling
        model: the layers
        loss: the loss to minimise
        optimizer: the optimizer
        run: length, batches, evaluations and checkpoints
        penalty: a penalty on parameters chosen by path, added to the loss
    """

    data: DataConfig
    model: ModelConfig
    loss: Loss
    optimizer: OptimizerConfig
    run: Run
    penalty: Penalty = Penalty()

    def objective(self, spec: PyTree) -> Objective:
        """The objective of the run, on batches of inputs like `spec`."""
        penalties = (self.penalty,) if self.penalty.l1 or self.penalty.l2 else ()
        return Objective(self.model.build(), self.loss, penalties, spec)

    def build_optimizer(self, steps: int, spec: PyTree) -> optax.GradientTransformationExtraArgs:
        """The optimizer of a run of `steps` steps, after a noise meter where the run measures the noise scale."""
        objective = self.objective(spec)
        optimizer = self.optimizer.build(steps, objective)
        if self.run.noise_scale_every is None:
            return optimizer
        return optax.chain(noise_meter(objective, self.run.noise_scale_every), optimizer)


def load(path: str | Path) -> Config:
    """The config that the file's get_config() returns. Raises InputError where the file gives none."""
    path = Path(path)
    if not path.is_file():
        neighbours = [str(file) for file in sorted(path.parent.glob("*.py"))]
        if neighbours:
            raise unknown("config file", str(path), neighbours)
        raise InputError(f"there is no config file {path}")
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
    """The config with all words such as '--config.optimizer.learning_rate=0.01' applied at once.

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
    return replace_keys(config, {name.removeprefix("--config."): value for name, value in changes.items()})


def show_help(config: Config) -> None:
    """Prints every key that a command may override: its type, its meaning, and its value in this config."""
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
    """('optimizer.learning_rate', type) of every leaf of the config that can be written as text."""
    for name, annotation in field_types(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            yield from keys(value, f"{prefix}{name}.")
        elif _nested_config(annotation) is None:
            yield f"{prefix}{name}", annotation


def to_json(config: Any) -> dict[str, Any]:
    """The resolved config as plain data: every dataclass a mapping that names its type."""

    def encode(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(encode, value))
        return to_json(value) if dataclasses.is_dataclass(value) else value

    fields = {field.name: encode(getattr(config, field.name)) for field in dataclasses.fields(config)}
    return {"type": type(config).__name__} | fields


def from_json(data: dict[str, Any], base: type[Any] = Config) -> Any:
    """The config that to_json wrote. Raises InputError for a type that is no known `base`, or for unknown keys."""
    classes = {cls.__name__: cls for cls in _family(base)}
    if data.get("type") not in classes:
        raise unknown(base.__name__, str(data.get("type")), classes)
    cls = classes[data["type"]]
    annotations = field_types(cls)
    for name in data.keys() - annotations.keys() - {"type"}:
        raise unknown(f"key of {cls.__name__}", name, annotations)

    def decode(value: Any, nested: type[Any] | None) -> Any:
        if isinstance(value, list):
            return tuple(decode(item, nested) for item in value)
        return from_json(value, nested) if isinstance(value, dict) and nested else value

    fields = {name: value for name, value in data.items() if name != "type"}
    return cls(**{name: decode(value, _nested_config(annotations[name])) for name, value in fields.items()})


def _family(cls: type[Any]) -> Iterator[type[Any]]:
    """The class and everything that derives from it."""
    yield cls
    for derived in cls.__subclasses__():
        yield from _family(derived)


def _nested_config(annotation: Any) -> type[Typed] | None:
    """The class of the configs in a field: Plateau for Plateau | None, Group for tuple[Group, ...]; None for a leaf."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, Typed):
            return part
    return None


def _parse(name: str, kind: Any, text: str) -> Any:
    """The text as a value of type `kind`. Raises InputError, naming the option `name`, where it is none."""
    import tyro

    if kind in (str, Pattern):
        return text
    words = [word for word in re.split(r"[,\s()]+", text) if word] if get_origin(kind) is tuple else [text]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            value = tyro.cli(kind, args=words, config=(tyro.conf.FlagConversionOff,), console_outputs=False)
    except SystemExit:
        value = text
    if not fits(value, kind):
        raise InputError(f"{name} must be {spell(kind)}, got '{text}'")
    return value


def replace_keys(config: Any, changes: dict[str, Any], where: str = "--config") -> Any:
    """dataclasses.replace for dotted keys such as 'run.epochs'. Every nested config is made once, with all its changes.

    Raises InputError, beginning with `where` the config stands, for an impossible value.
    """
    by_field: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        name, _, rest = key.partition(".")
        by_field.setdefault(name, {})[rest] = value
    values = {
        name: nested[""] if "" in nested else replace_keys(getattr(config, name), nested, f"{where}.{name}")
        for name, nested in by_field.items()
    }
    try:
        return dataclasses.replace(config, **values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _misspelt(path: Path, error: TypeError) -> InputError:
    """A clear line for a keyword that a config dataclass does not have; else the error's own text."""
    match = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    for cls in _family(Typed):
        if match and cls.__name__ == match[1]:
            return InputError(f"{path}: {unknown(f'key of {cls.__name__}', match[2], field_types(cls))}")
    return InputError(f"{path}: {error}")
