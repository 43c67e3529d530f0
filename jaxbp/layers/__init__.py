"""The layers, one family a file. A test prints the line that a new layer needs here."""

from jaxbp.layers.activations import (
    ELU,
    GELU,
    SELU,
    Activation,
    Elementwise,
    Identity,
    LeakyReLU,
    ReLU,
    Sigmoid,
    SiLU,
    SoftCap,
    Softmax,
    Softplus,
    Step,
    Tanh,
)
from jaxbp.layers.algebra import AlgebraDense
from jaxbp.layers.attention import Attention
from jaxbp.layers.batch_norm import BatchNorm, BatchNormReLU
from jaxbp.layers.black_box import BlackBox
from jaxbp.layers.capsules import Capsules, Lengths, Squash
from jaxbp.layers.cells import Cell, GRUCell, LSTMCell, SimpleCell
from jaxbp.layers.continuous import ContinuousCell
from jaxbp.layers.convolution import Conv
from jaxbp.layers.convolution_transpose import ConvTranspose
from jaxbp.layers.dense import Dense
from jaxbp.layers.dropout import Dropout
from jaxbp.layers.embedding import Embedding, OneHot
from jaxbp.layers.gated import GEGLU, SwiGLU
from jaxbp.layers.gaussian import Gaussian
from jaxbp.layers.join import Add, Concatenate
from jaxbp.layers.layer_norm import GroupNorm, LayerNorm, RMSNorm
from jaxbp.layers.locally_connected import LocallyConnected
from jaxbp.layers.matrix_capsules import MatrixCapsules
from jaxbp.layers.multiplicative import Bilinear, SigmaPi
from jaxbp.layers.pooling import AveragePool, GlobalAveragePool, GlobalMaxPool, MaxPool
from jaxbp.layers.positions import Positions, SinusoidalPositions
from jaxbp.layers.recurrent import Recurrent
from jaxbp.layers.reshape import Flatten, Reshape
from jaxbp.layers.second_order import SecondOrderPool, SymmetricVector, Whitening
from jaxbp.layers.spectral import Eigh, Spectral, Svd
from jaxbp.layers.spiking import SpikingCell
from jaxbp.layers.structured import Structured
from jaxbp.layers.tapped_delay import TappedDelay
from jaxbp.layers.tokens import ClassToken, First

__all__ = [
    "ELU",
    "GEGLU",
    "GELU",
    "SELU",
    "Activation",
    "Add",
    "AlgebraDense",
    "Attention",
    "AveragePool",
    "BatchNorm",
    "BatchNormReLU",
    "Bilinear",
    "BlackBox",
    "Capsules",
    "Cell",
    "ClassToken",
    "Concatenate",
    "ContinuousCell",
    "Conv",
    "ConvTranspose",
    "Dense",
    "Dropout",
    "Eigh",
    "Elementwise",
    "Embedding",
    "First",
    "Flatten",
    "GRUCell",
    "Gaussian",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GroupNorm",
    "Identity",
    "LSTMCell",
    "LayerNorm",
    "LeakyReLU",
    "Lengths",
    "LocallyConnected",
    "MatrixCapsules",
    "MaxPool",
    "OneHot",
    "Positions",
    "RMSNorm",
    "ReLU",
    "Recurrent",
    "Reshape",
    "SecondOrderPool",
    "SiLU",
    "SigmaPi",
    "Sigmoid",
    "SimpleCell",
    "SinusoidalPositions",
    "SoftCap",
    "Softmax",
    "Softplus",
    "Spectral",
    "SpikingCell",
    "Squash",
    "Step",
    "Structured",
    "Svd",
    "SwiGLU",
    "SymmetricVector",
    "Tanh",
    "TappedDelay",
    "Whitening",
]
