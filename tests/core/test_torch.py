"""A second framework as the oracle of whole models: PyTorch's autograd in float64, with our weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.check import worst
from jaxbp.check.truth import FLOAT64_TOLERANCE
from jaxbp.losses import BinaryCrossEntropy, Huber, SoftmaxCrossEntropy, SquaredError
from jaxbp.models import MLP

torch = pytest.importorskip("torch", reason="pip install torch==2.13.0 for this oracle")
nn = torch.nn
LOSSES = {
    "cross-entropy": (
        SoftmaxCrossEntropy(label_smoothing=0.1),
        lambda y, t: nn.functional.cross_entropy(y, t, label_smoothing=0.1),
    ),
    "squared error": (SquaredError("mean"), lambda y, t: nn.functional.mse_loss(y, t)),
    "huber": (Huber(0.5), lambda y, t: nn.functional.huber_loss(y, t, reduction="sum", delta=0.5) / len(y)),
    "binary": (
        BinaryCrossEntropy(),
        lambda y, t: nn.functional.binary_cross_entropy_with_logits(y, t, reduction="sum") / len(y),
    ),
}
ACTIVATIONS = {
    "relu": nn.ReLU(),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "gelu": nn.GELU(),
    "elu": nn.ELU(),
    "selu": nn.SELU(),
    "silu": nn.SiLU(),
    "softplus": nn.Softplus(),
    "leakyrelu": nn.LeakyReLU(0.01),
}


def pairs():
    """Every activation with the cross-entropy, and every loss with relu; the other pairs are nightly."""
    for name in LOSSES:
        for activation in ACTIVATIONS:
            once = pytest.mark.slow if activation == "relu" else pytest.mark.nightly
            yield pytest.param(name, activation, marks=() if name == "cross-entropy" else once)


@pytest.mark.parametrize(("name", "activation"), [*pairs()])
def test_whole_model_against_pytorch(strict, name, activation):
    loss, theirs = LOSSES[name]
    model = MLP(outputs=3, hidden=(7, 11), activation=activation).build()
    x = jax.random.normal(jax.random.key(0), (5, 2), jnp.float64)
    soft = jax.random.uniform(jax.random.key(1), (5, 3), jnp.float64)
    target = jnp.arange(5) % 3 if name == "cross-entropy" else soft
    params = jaxbp.cast(model.init(jax.random.key(2), jax.ShapeDtypeStruct(x.shape, x.dtype)), jnp.float64)
    batch = {"x": x, "y": target, "weight": jnp.full(5, 1 / 5, jnp.float64)}
    result = jax.jit(jaxbp.value_and_grad(model, loss))(params, batch)

    dense = [leaf for name, leaf in params.items() if "dense" in name]
    weights = [tuple(torch.tensor(np.asarray(p[k]), requires_grad=True) for k in ("w", "b")) for p in dense]
    y = torch.tensor(np.asarray(x))
    for i, (w, b) in enumerate(weights):
        y = nn.functional.linear(y, w, b)
        y = ACTIVATIONS[activation](y) if i < 2 else y
    value = theirs(y, torch.tensor(np.asarray(target)))
    value.backward()
    grads = [leaf for name, leaf in result.grads.items() if "dense" in name]
    expected = [{"w": jnp.asarray(w.grad.numpy()), "b": jnp.asarray(b.grad.numpy())} for w, b in weights]
    assert worst((result.value, grads), (jnp.asarray(value.item()), expected)) <= FLOAT64_TOLERANCE
