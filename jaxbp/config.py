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
|                                | Credit                        | gradient(model, loss) -> a function of a step       |
| a config that loads            | DataConfig                    | load() -> Splits                                    |
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, NoneType
from typing import Any, get_args, get_origin

import optax

from jaxbp.core import Layer, PyTree
from jaxbp.credit import Backpropagation, Credit
from jaxbp.data import DataConfig, Splits
from jaxbp.errors import InputError, unknown
from jaxbp.losses import Loss, Penalty
from jaxbp.models import LayerModel, ModelConfig
from jaxbp.optim import Objective, OptimizerConfig, noise_meter  # this import defines the optimizers that JSON names
from jaxbp.run import Run as Run
from jaxbp.typed import Typed, describe, field_types, fits, meanings, missing_fields, parse, spell
from jaxbp.wrappers import computed_in


@dataclass(frozen=True)
class Config(Typed):
    """One experiment.

    Args:
        data: the data set, its split and its scaling
        model: the layers: a config that builds them, or a layer as it stands
        loss: the loss to minimise
        optimizer: the optimizer
        run: length, batches, evaluations and checkpoints
        penalty: a penalty on parameters chosen by path, added to the loss
        credit: how a step finds out which weight is to blame for the error
    """

    data: DataConfig
    model: ModelConfig
    loss: Loss
    optimizer: OptimizerConfig
    run: Run
    penalty: Penalty = Penalty()
    credit: Credit = Backpropagation()

    def __post_init__(self) -> None:
        if isinstance(self.model, Layer):
            object.__setattr__(self, "model", LayerModel.of(self.model))
        super().__post_init__()

    def load_data(self) -> Splits:
        """The data. Raises InputError where its config asks for more than there can be."""
        try:
            return self.data.load()
        except InputError:
            raise
        except (ArithmeticError, MemoryError, ValueError) as error:
            raise InputError(f"{type(self.data).__name__}.load() raised {type(error).__name__}: {error}") from error

    def build_model(self, dtype: str | None = None) -> Layer:
        """The model, with its products in `dtype`, by default run.dtype.

        Raises InputError where its config's build() fails or gives no layer.
        """
        name = type(self.model).__name__
        try:
            model = self.model.build()
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{name}.build() raised {type(error).__name__}: {error}") from error
        if not isinstance(model, Layer):
            raise InputError(f"{name}.build() must return a layer, got {type(model).__name__}")
        return computed_in(model, dtype or self.run.dtype)

    def objective(self, spec: PyTree) -> Objective:
        """The objective of the run, on batches of inputs like `spec`."""
        penalties = (self.penalty,) if self.penalty.l1 or self.penalty.l2 else ()
        return Objective(self.build_model(), self.loss, penalties, spec)

    def gradient(self, model: Layer) -> Callable:
        """The function (params, batch, ctx) -> Result of a step: the optimizer's own, or another credit rule's."""
        return (self.optimizer if isinstance(self.credit, Backpropagation) else self.credit).gradient(model, self.loss)

    @property
    def is_plain(self) -> bool:
        """Whether a step's direction is the gradient as it is, a sum over rows."""
        return isinstance(self.credit, Backpropagation) and self.optimizer.is_plain

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
    if path.suffix != ".py":
        raise InputError(f"{path} is no config file: it must be Python (.py) with get_config()")
    module = ModuleType(f"jaxbp_config_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses of the file look their annotations up
    try:
        exec(compile(path.read_text(), path, "exec"), vars(module))
        if not hasattr(module, "get_config"):
            raise InputError("it has no get_config(), which returns the Config")
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


def override(config: Config, words: Sequence[str], others: Iterable[str] = ()) -> Config:
    """The config with all words such as '--config.optimizer.learning_rate=0.01' applied at once.

    '--config.optimizer=SGD' makes the optimizer another kind, before the keys below it are read. It keeps the values of
    the keys that both kinds have. `others` are options that a message may name too. Raises InputError for an unknown
    key or kind, a wrong type, an impossible value.
    """
    draft = _Draft.of(config)
    read: set[str] = set()
    for word in sorted(words, key=lambda word: word.partition("=")[0].count(".")):
        option, equals, text = word.partition("=")
        places = {option: (owner, name) for option, owner, name in draft.options()}
        if option not in places:
            raise _unknown_option(option, places, others)
        if not equals:
            raise InputError(f"{option} needs a value: {option}=VALUE")
        if option in read:
            raise InputError(f"{option} is given twice")
        read.add(option)
        owner, name = places[option]
        if kinds := kinds_of(owner.annotation(name)):
            kind = "none" if text.lower() == "none" else text
            if kind not in kinds:
                raise unknown(option, text, kinds)
            owner.values[name] = owner.turned(name, kinds[kind])
        else:
            owner.values[name] = parse(option, text, owner.annotation(name))
    return draft.build()


def replace_keys(config: Config, changes: dict[str, Any]) -> Config:
    """dataclasses.replace for dotted keys such as 'run.epochs'. Every nested config is made once, with all its changes.

    Raises InputError for an impossible value.
    """
    draft = _Draft.of(config)
    for key, value in changes.items():
        *parents, name = key.split(".")
        functools.reduce(lambda owner, parent: owner.values[parent], parents, draft).values[name] = value
    return draft.build()


def show_help(config: Config) -> None:
    """Prints every option that a word can set: its meaning, its value in this config, and what it can be."""
    for option, owner, name in _Draft.of(config).options():
        value = owner.values[name]
        kinds = kinds_of(owner.annotation(name))
        allowed = f"one of {', '.join(kinds)}" if kinds else spell(owner.annotation(name))
        shown = value.kind.__name__ if isinstance(value, _Draft) else value
        print(describe(option, meanings(owner.kind).get(name, ""), shown, allowed))


def keys(config: Config) -> Iterator[tuple[str, Any]]:
    """('optimizer.learning_rate', type) of every leaf of the config that can be written as text."""
    for option, owner, name in _Draft.of(config).options():
        if not kinds_of(owner.annotation(name)):
            yield option.removeprefix("--config."), owner.annotation(name)


@dataclass
class _Draft:
    """A config before it is made: its kind, and the values of its fields, in which nested configs are drafts."""

    kind: type[Typed]
    values: dict[str, Any]

    @classmethod
    def of(cls, config: Typed) -> _Draft:
        """The draft that `build` makes into an equal config."""
        values = {name: getattr(config, name) for name in field_types(type(config))}
        return cls(type(config), {k: cls.of(v) if isinstance(v, Typed) else v for k, v in values.items()})

    def annotation(self, name: str) -> Any:
        """The type of a field."""
        return field_types(self.kind)[name]

    def options(self, prefix: str = "--config") -> Iterator[tuple[str, _Draft, str]]:
        """(option, the draft that it changes, the field there) for every key and every kind."""
        for name, annotation in field_types(self.kind).items():
            value = self.values.get(name)
            if _nested_config(annotation) is None or kinds_of(annotation):
                yield f"{prefix}.{name}", self, name
            if isinstance(value, _Draft):
                yield from value.options(f"{prefix}.{name}")

    def turned(self, name: str, kind: type[Typed] | None) -> _Draft | None:
        """The nested config in a field as another kind, with the values that fit that kind too."""
        if kind is None:
            return None
        old = self.values.get(name)
        values = old.values if isinstance(old, _Draft) else {}
        types = field_types(kind)
        return _Draft(kind, {k: v for k, v in values.items() if k in types and _fits(v, types[k])})

    def build(self, where: str = "--config") -> Any:
        """The config. Raises InputError, beginning with `where` it stands, for an impossible or a missing value."""
        if missing := missing_fields(self.kind, self.values):
            options = ", ".join(f"{where}.{name}=VALUE" for name in missing)
            raise InputError(f"{where}={self.kind.__name__} needs {options} too")
        values = {k: v.build(f"{where}.{k}") if isinstance(v, _Draft) else v for k, v in self.values.items()}
        try:
            return self.kind(**values)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a field of this type can hold a value of a draft."""
    base = _nested_config(annotation)
    return issubclass(value.kind, base or ()) if isinstance(value, _Draft) else fits(value, annotation)


def _unknown_option(option: str, places: dict[str, tuple[_Draft, str]], others: Iterable[str]) -> InputError:
    """The error for an option that is none. It names the kinds that have the key, or else the nearest option."""
    words = option.split(".")
    for i in range(1, len(words)):
        parent, key = ".".join(words[:i]), words[i]
        owner, name = places.get(parent, (None, ""))
        if owner is None:
            continue
        config = owner.values.get(name)
        present = config.kind.__name__ if isinstance(config, _Draft) else "None"
        having = [kind for kind, cls in kinds_of(owner.annotation(name)).items() if cls and key in field_types(cls)]
        if having and present not in having:
            hint = f"; {', '.join(having)} {'has' if len(having) == 1 else 'have'}: {parent}={having[0]}"
            return InputError(f"unknown option '{option}': {present} has no {key}{hint}")
    return unknown("option", option, [*places, *others])


def to_json(config: Any) -> dict[str, Any]:
    """The resolved config as plain data: every dataclass a mapping that names its type."""

    def encode(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(encode, value))
        return to_json(value) if dataclasses.is_dataclass(value) else value

    fields = {field.name: encode(getattr(config, field.name)) for field in dataclasses.fields(config)}
    return {"type": type(config).__name__} | fields


def from_json(data: Any, base: type[Any] = Config) -> Any:
    """The config that to_json wrote. Raises InputError for all else: a type that is no known config of the kind `base`,
    keys that it does not have or lacks, values that they cannot have. A text in `data` names nothing but such a type.
    """
    classes = _concrete(base)
    name = data.get("type") if isinstance(data, dict) else data
    if not isinstance(name, str) or name not in classes:
        raise unknown(base.__name__, str(name), classes)
    cls = classes[name]
    annotations = field_types(cls)
    for name in data.keys() - annotations.keys() - {"type"}:
        raise unknown(f"key of {cls.__name__}", name, annotations)
    if missing := missing_fields(cls, data):
        raise InputError(f"{cls.__name__} has no {missing[0]}, and needs it")

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


def _concrete(base: type[Any]) -> dict[str, type[Any]]:
    """The class and what derives from it, by name, without bases that leave a method open."""
    return {cls.__name__: cls for cls in _family(base) if not inspect.isabstract(cls)}


def kinds_of(annotation: Any) -> dict[str, type[Typed] | None]:
    """The kinds of config that a field of this type can hold, by name, 'none' among them; {} without a choice."""
    base = _nested_config(annotation)
    if base is None or get_origin(annotation) is tuple:
        return {}
    kinds: dict[str, type[Typed] | None] = dict(sorted(_concrete(base).items()))
    if NoneType in get_args(annotation):
        kinds["none"] = None
    return kinds if len(kinds) > 1 else {}


def _nested_config(annotation: Any) -> type[Typed] | None:
    """The class of the configs in a field: Plateau for Plateau | None, Group for tuple[Group, ...]; None for a leaf."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, Typed):
            return part
    return None


def _misspelt(path: Path, error: TypeError) -> InputError:
    """A clear line for a keyword that a config dataclass does not have; else the error's own text."""
    match = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    for cls in _family(Typed):
        if match and cls.__name__ == match[1]:
            if inspect.isabstract(cls):
                return InputError(f"{path}: a subclass of {cls.__name__} needs @dataclass(frozen=True), for its keys")
            return InputError(f"{path}: {unknown(f'key of {cls.__name__}', match[2], field_types(cls))}")
    return InputError(f"{path}: {error}")
