"""The base of every model config."""

from __future__ import annotations

from dataclasses import dataclass

from jaxbp.core import Layer
from jaxbp.typed import Typed


@dataclass(frozen=True)
class ModelConfig(Typed):
    """The base of every model's config: fields are config keys."""

    def build(self) -> Layer:
        """The model. Raises InputError for settings that do not fit together."""
        raise NotImplementedError
