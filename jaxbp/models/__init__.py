"""Model configs: frozen dataclasses whose `build()` returns a layer."""
from jaxbp.models.mlp import MLP
from jaxbp.models.model import ModelConfig

__all__ = ["MLP", "ModelConfig"]
