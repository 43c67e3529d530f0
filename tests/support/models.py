"""Tables of small models, one of every kind of weight, each with parameters and a batch."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxbp
from jaxbp.losses import BinaryCrossEntropy, SoftmaxCrossEntropy, SquaredError

# --- with a loss whose curvature is asked for ------------------------------------------------------------------------

CURVED = {  # name: (model, input spec, loss)
    "mlp": (jaxbp.Chain((jaxbp.Dense(4), jaxbp.Tanh(), jaxbp.Dense(3))), (5, 2), SoftmaxCrossEntropy()),
    "relu": (jaxbp.Chain((jaxbp.Dense(4), jaxbp.ReLU(), jaxbp.Dense(3))), (5, 2), SquaredError()),
    "binary": (jaxbp.Chain((jaxbp.Dense(3), jaxbp.Sigmoid(), jaxbp.Dense(2))), (5, 2), BinaryCrossEntropy()),
    "conv": (
        jaxbp.Chain((jaxbp.Conv(2, (2, 2)), jaxbp.MaxPool((2, 2)), jaxbp.Tanh(), jaxbp.Flatten(), jaxbp.Dense(3))),
        (5, 4, 4, 1),
        SoftmaxCrossEntropy(),
    ),
    "batch_norm": (
        jaxbp.Chain((jaxbp.Dense(3), jaxbp.BatchNorm(), jaxbp.Tanh(), jaxbp.Dense(2))),
        (5, 2),
        SquaredError(),
    ),
    "lstm": (jaxbp.Chain((jaxbp.Recurrent(jaxbp.LSTMCell(2)), jaxbp.Dense(3))), (4, 3, 2), SoftmaxCrossEntropy()),
}
TIED_DENSE = jaxbp.Graph(
    nodes=(
        jaxbp.Node("first", jaxbp.Dense(2), ("x",)),
        jaxbp.Node("bend", jaxbp.Tanh(), ("first",)),
        jaxbp.Node("second", jaxbp.Dense(2), ("bend",), shares="first"),
    )
)
FACTORED = CURVED | {
    "tied": (TIED_DENSE, (5, 2), SquaredError()),
    "stack": (jaxbp.Stack(jaxbp.Chain((jaxbp.Dense(2), jaxbp.Tanh())), 3), (5, 2), SquaredError()),
    "embedding": (
        jaxbp.Chain((jaxbp.Embedding(4, 3), jaxbp.Flatten(), jaxbp.Dense(2))),
        (5, 2),
        SoftmaxCrossEntropy(),
        4,
    ),
    "grouped": (
        jaxbp.Chain((jaxbp.Conv(4, (2, 2), groups=2), jaxbp.Tanh(), jaxbp.Flatten(), jaxbp.Dense(2))),
        (5, 3, 2, 2),
        SquaredError(),
    ),
    "transposed": (
        jaxbp.Chain((jaxbp.ConvTranspose(2, (2, 2), strides=2), jaxbp.Flatten(), jaxbp.Dense(2))),
        (5, 2, 2, 1),
        SquaredError(),
    ),
    "norm": (jaxbp.Chain((jaxbp.Dense(3), jaxbp.LayerNorm(), jaxbp.Dense(2))), (5, 2), SquaredError()),
}


@cache
def curved_setting(model, shape, loss, ids=None):
    """(model, loss, params, batch, ctx), params of ordinary size; weights that differ. ids: how many there are."""
    keys = jax.random.split(jax.random.key(3), 4)
    spec = jax.ShapeDtypeStruct(shape, jnp.int32 if ids else jnp.float64)
    params = jaxbp.cast(model.init(keys[0], spec), jnp.float64)
    params = jax.tree.map(lambda p: p + 0.3 * np.random.default_rng(p.size).normal(size=p.shape), params)
    x = jax.random.randint(keys[1], shape, 0, ids) if ids else jax.random.normal(keys[1], shape, jnp.float64)
    out = jaxbp.output_spec(model, spec).shape
    if isinstance(loss, SoftmaxCrossEntropy):
        y = jax.random.randint(keys[2], out[:-1], 0, out[-1])
    else:
        y = jax.random.uniform(keys[2], out, jnp.float64)
    weight = jax.random.uniform(keys[3], out[:-1], jnp.float64).at[0].set(0)
    batch = {"x": x, "y": y, "weight": weight}
    batch["x"], ctx = jaxbp.Context(None, model.init_state(spec)).counted(batch)  # the first row does not count
    return model, loss, params, batch, ctx


# --- whose examples are looked at one by one -------------------------------------------------------------------------

HEAD = (jaxbp.Flatten(), jaxbp.Dense(3))
BLOCK = jaxbp.Chain((jaxbp.Dense(4), jaxbp.Tanh()))
TIED = jaxbp.Graph((jaxbp.Node("a", BLOCK, ("x",)), jaxbp.Node("b", BLOCK, ("a",), shares="a")))
IDS = jax.ShapeDtypeStruct((5, 4), jnp.int32)
floats = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float64)
PER_EXAMPLE = {  # name: (model, input spec)
    "mlp": (jaxbp.Chain((jaxbp.Dense(4), jaxbp.Tanh(), jaxbp.Dense(3))), floats(5, 2)),
    "sequence": (jaxbp.Chain((jaxbp.Dense(4), jaxbp.Tanh(), jaxbp.Dense(3))), floats(5, 7, 2)),
    "stack": (jaxbp.Chain((jaxbp.Dense(4), jaxbp.Stack(BLOCK, 3), *HEAD)), floats(5, 2)),
    "conv": (jaxbp.Chain((jaxbp.Conv(4, (2, 2), groups=2), jaxbp.MaxPool((2, 2)), *HEAD)), floats(5, 5, 5, 2)),
    "transposed": (jaxbp.Chain((jaxbp.ConvTranspose(2, (2,), 2), jaxbp.Tanh(), *HEAD)), floats(5, 3, 2)),
    "norms": (
        jaxbp.Chain((jaxbp.Dense(4), jaxbp.LayerNorm(), jaxbp.GroupNorm(2), jaxbp.RMSNorm(), *HEAD)),
        floats(5, 2),
    ),
    "embedding": (jaxbp.Chain((jaxbp.Embedding(3, 2), *HEAD)), IDS),
    "lstm": (jaxbp.Chain((jaxbp.Embedding(3, 2), jaxbp.Recurrent(jaxbp.LSTMCell(3)), jaxbp.Dense(3))), IDS),
    "gru": (jaxbp.Chain((jaxbp.Recurrent(jaxbp.GRUCell(3), output="last"), jaxbp.Dense(3))), floats(5, 4, 2)),
    "tied": (jaxbp.Chain((jaxbp.Dense(4), TIED, *HEAD)), floats(5, 4)),
}


@cache
def per_example_setting(name):
    """(model, loss, params, batch)."""
    model, spec = PER_EXAMPLE[name]
    keys = jax.random.split(jax.random.key(5), 4)
    params = jaxbp.cast(model.init(keys[0], spec), jnp.float64)
    params = jax.tree.map(lambda p: p + 0.3 * np.random.default_rng(p.size).normal(size=p.shape), params)
    draw = partial(jax.random.randint, minval=0, maxval=3) if spec is IDS else jax.random.normal
    out = jaxbp.output_spec(model, spec).shape
    y, weight = jax.random.randint(keys[2], out[:-1], 0, 3), jax.random.uniform(keys[3], out[:-1], jnp.float64, 0.5, 2)
    batch = {"x": draw(keys[1], spec.shape, dtype=spec.dtype), "y": y, "weight": weight}
    return model, SoftmaxCrossEntropy(), params, batch
