"""Single operations, arrays in and arrays out: forward and backward side by side, no parameters, no layer.

Each function here is a jax.custom_vjp: its jax.grad runs the hand-written backward, in any JAX code and library.

    from jaxbp import ops
    y = ops.rms_norm(x, scale)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxbp.ops.chunked_cross_entropy import linear_cross_entropy as linear_cross_entropy
    from jaxbp.ops.gated import geglu as geglu
    from jaxbp.ops.gated import swiglu as swiglu
    from jaxbp.ops.matrices import cholesky as cholesky
    from jaxbp.ops.matrices import expm as expm
    from jaxbp.ops.matrices import logdet as logdet
    from jaxbp.ops.matrices import pinv as pinv
    from jaxbp.ops.matrices import polar as polar
    from jaxbp.ops.matrices import qr as qr
    from jaxbp.ops.matrices import solve as solve
    from jaxbp.ops.matrices import sylvester as sylvester
    from jaxbp.ops.norms import layer_norm as layer_norm
    from jaxbp.ops.norms import rms_norm as rms_norm
    from jaxbp.ops.of_layers import average_pool as average_pool
    from jaxbp.ops.of_layers import conv as conv
    from jaxbp.ops.of_layers import conv_transpose as conv_transpose
    from jaxbp.ops.of_layers import gru as gru
    from jaxbp.ops.of_layers import lstm as lstm
    from jaxbp.ops.of_layers import max_pool as max_pool
    from jaxbp.ops.probabilities import log_softmax as log_softmax
    from jaxbp.ops.probabilities import softmax as softmax
    from jaxbp.ops.rotations import rotary as rotary
    from jaxbp.ops.scaled_dot_product import attention as attention
    from jaxbp.ops.spectral_functions import logm_psd as logm_psd
    from jaxbp.ops.spectral_functions import spectral as spectral
    from jaxbp.ops.spectral_functions import sqrtm_psd as sqrtm_psd
    from jaxbp.ops.weighting import Weighting as Weighting


HOME = {  # no module has the name of a function: it would take the function's place
    "Weighting": "weighting",
    "attention": "scaled_dot_product",
    "average_pool": "of_layers",
    "cholesky": "matrices",
    "conv": "of_layers",
    "conv_transpose": "of_layers",
    "expm": "matrices",
    "geglu": "gated",
    "gru": "of_layers",
    "layer_norm": "norms",
    "linear_cross_entropy": "chunked_cross_entropy",
    "log_softmax": "probabilities",
    "logdet": "matrices",
    "logm_psd": "spectral_functions",
    "lstm": "of_layers",
    "max_pool": "of_layers",
    "pinv": "matrices",
    "polar": "matrices",
    "qr": "matrices",
    "rms_norm": "norms",
    "rotary": "rotations",
    "softmax": "probabilities",
    "solve": "matrices",
    "spectral": "spectral_functions",
    "sqrtm_psd": "spectral_functions",
    "swiglu": "gated",
    "sylvester": "matrices",
}

__all__ = list(HOME)


def __getattr__(name: str) -> Any:
    """Imports the operation late: the layers, which some operations are made of, import this package."""
    if name not in HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{HOME[name]}"), name)
