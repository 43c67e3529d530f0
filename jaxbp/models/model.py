"""The base of every model config, and the config of a model that is a layer as it stands."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxbp.compose import Node
from jaxbp.core import Layer
from jaxbp.errors import InputError, unknown
from jaxbp.inits import Initializer
from jaxbp.structures import Structure
from jaxbp.typed import Typed


@dataclass(frozen=True)
class ModelConfig(Typed, ABC):
    """The base of every model's config: fields are config keys."""

    @abstractmethod
    def build(self) -> Layer:
        """The model. Raises InputError for settings that do not fit together."""
        raise NotImplementedError


@dataclass(frozen=True)
class LayerModel(ModelConfig):
    """A layer as it stands, such as Chain(Dense(8), Tanh(), Dense(3)).

    Args:
        layer: the layer as Python prints it
    """

    layer: str

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layer", ast.unparse(ast.parse(repr(self.build()), mode="eval")))  # in one line

    @classmethod
    def of(cls, layer: Layer) -> LayerModel:
        """The config of `layer`. Raises InputError where a text cannot hold it, such as a layer made of functions."""
        try:
            config = cls(repr(layer))
        except InputError as error:
            raise InputError(f"a config cannot hold this layer, a ModelConfig that builds it can: {error}") from error
        if config.build() != layer:
            raise InputError(f"a config cannot hold this layer, for its text gives another one: {config.layer}")
        return config

    def build(self) -> Layer:
        layer = read_layer(self.layer)
        if not isinstance(layer, Layer):
            raise InputError(f"LayerModel: layer must be one such as Chain(Dense(8), Tanh()), got {self.layer}")
        return layer


def read_layer(text: str) -> Any:
    """The value of an expression of layers, initializers, numbers, texts and tuples. No other code runs.

    Layers of a user's own count as soon as their file was imported. Raises InputError for anything else.
    """
    classes = {cls.__qualname__: cls for base in (Layer, Initializer, Node, Structure) for cls in family(base)}

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Tuple | ast.List):
            return tuple(value(item) for item in node.elts)
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name not in classes:
                raise unknown("layer", name, classes)
            arguments = {argument.arg or "": value(argument.value) for argument in node.keywords}
            return classes[name](*map(value, node.args), **arguments)
        try:
            return ast.literal_eval(node)
        except ValueError:
            raise ValueError(f"{ast.unparse(node)} is no layer, number or text in quotes") from None

    try:
        return value(ast.parse(text.strip(), mode="eval").body)
    except InputError:
        raise
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise InputError(f"{text} cannot be read as a layer: {reason}") from error


def family(cls: type[Any]) -> Iterator[type[Any]]:
    """The class and everything that derives from it; of classes of one name and base the newest comes last."""
    yield cls
    for derived in cls.__subclasses__():
        yield from family(derived)
