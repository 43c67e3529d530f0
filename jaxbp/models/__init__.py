"""Model configs: frozen dataclasses whose `build()` returns a layer."""

from jaxbp.models.cnn import CNN
from jaxbp.models.encoder import TransformerEncoder, ViT
from jaxbp.models.feedback import FeedbackMLP
from jaxbp.models.gpt import GPT
from jaxbp.models.mlp import MLP
from jaxbp.models.model import LayerModel, ModelConfig
from jaxbp.models.resnet import ResNet
from jaxbp.models.rnn import RNN
from jaxbp.models.tdnn import TDNN

__all__ = [
    "CNN",
    "GPT",
    "MLP",
    "RNN",
    "TDNN",
    "FeedbackMLP",
    "LayerModel",
    "ModelConfig",
    "ResNet",
    "TransformerEncoder",
    "ViT",
]
