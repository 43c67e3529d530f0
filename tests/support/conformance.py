"""What the conformance matrix measures of a case, in one compiled program a case: hand-written beside the oracle.

The oracle is jax.vjp of the layer's own forward. Every measurement is a pair (measured, expected) of trees.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jaxbp
from jaxbp.core import Case, Context, dot, layer_types, leaf_layers
from jaxbp.credit.steady import Steady
from jaxbp.deferred import Defer
from jaxbp.devices.gathered import Gathered
from jaxbp.devices.tensor import Part, Split
from jaxbp.wrappers import ComputedIn, Shift

RECIPE = """{name} has no cases. A layer is one file: the mathematics at its top, forward and backward, and
    @classmethod
    def cases(cls): return [Case({short}(...), shaped(5, 3))]    # batch first, sizes distinct and coprime
Nothing else needs an edit: these tests, the gradient check and the benchmarks find it."""
ROWS = 5
KEY = jax.random.key(7)


def abstract(cls) -> bool:
    return cls.forward is jaxbp.Layer.forward or cls.__name__ in ("Activation", "Cell", "FromInput")


def concrete_layers() -> list[type]:
    """Every layer of jaxbp but the tools of a pass, whose parameters or deltas are of one batch, or one device's.

    And but steady states: their forward is a loop that ends by itself, which jax.vjp cannot reverse. Their oracle is in
    tests/credit/test_steady.py. ComputedIn rounds on purpose: tests/training/test_precision.py.
    """
    ours = [cls for name, cls in layer_types().items() if name.startswith("jaxbp.")]
    tools = Shift | Defer | Gathered | Split | Part | Steady | ComputedIn
    return [cls for cls in ours if not abstract(cls) and not issubclass(cls, tools)]


@functools.cache
def all_cases() -> list[Case]:
    return [case for cls in concrete_layers() for case in cls.cases()]


def assert_has_cases(cls) -> None:
    """What a new layer is told."""
    assert cls.cases(), RECIPE.format(name=f"{cls.__module__}.{cls.__name__}", short=cls.__name__)
    assert all(isinstance(case.layer, cls) for case in cls.cases())


def couples_batch(case: Case) -> bool:
    return any(leaf.couples_batch for leaf in leaf_layers(case.layer))


def is_floating(tree) -> bool:
    return all(jnp.issubdtype(a.dtype, jnp.floating) for a in jax.tree.leaves(tree))


def resized(spec, rows: int, dtype):
    """The case's spec with another batch size and floating dtype."""
    kind = lambda s: dtype if is_floating(s) else s.dtype
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct((rows, *s.shape[1:]), kind(s)), spec)


def noise(tree, seed: int, dtype=None):
    """Normal numbers of the tree's shapes, in `dtype` or its own: NumPy's, for JAX's compile once for each shape.

    Integers, such as the position in a state, are their integral parts.
    """
    generator = np.random.default_rng(seed)
    kind = lambda s: dtype if dtype and is_floating(s) else s.dtype
    return jax.tree.map(lambda s: np.asarray(generator.normal(size=s.shape)).astype(kind(s)), tree)


@functools.cache
def inputs(case: Case, rows: int):
    """The case's own inputs in float64, off its kinks."""
    spec = resized(case.spec, rows, jnp.float64)
    return noise(spec, 1) if case.sample is None else jax.device_get(jax.jit(lambda key: case.draw(key, spec))(KEY))


@functools.cache
def setting(case: Case, rows: int = ROWS, dtype=jnp.float64, params_dtype=None):
    """Random (params, x, ctx, dy) for the case, in NumPy arrays.

    No parameter is zero or one; a state is positive, as variances are.
    """
    layer, spec, params_dtype = case.layer, resized(case.spec, rows, dtype), params_dtype or dtype
    params = jax.tree.map(lambda p: p / 2, noise(jax.eval_shape(layer.init, KEY, spec), 2, params_dtype))
    state = jax.tree.map(np.abs, noise(jax.eval_shape(lambda: layer.init_state(spec)), 3, params_dtype))
    x = jax.tree.map(lambda a, s: a[:rows].astype(s.dtype), inputs(case, max(rows, ROWS)), spec)
    ctx = Context(KEY, state)
    y = jax.eval_shape(lambda p, x, ctx: layer.forward(p, x, ctx)[0], params, x, ctx)
    return params, x, ctx, noise(y, 4)


def reference(layer, ctx, params, x):
    """(y, dy -> {"dx", "grads"}) by jax.vjp; dx is None for integer inputs."""
    if is_floating(x):
        y, back = jax.vjp(lambda p, x: layer.forward(p, x, ctx)[0], params, x)
        return y, lambda dy: dict(zip(("grads", "dx"), back(dy), strict=True))
    y, back = jax.vjp(lambda p: layer.forward(p, x, ctx)[0], params)
    return y, lambda dy: {"grads": back(dy)[0], "dx": None}


def hand_written(layer, ctx, params, x):
    """(y, dy -> {"dx", "grads"}) by the layer's own backward."""
    y, cache = layer.forward(params, x, ctx)
    return y, lambda dy: dict(zip(("dx", "grads"), layer.backward(params, cache, dy), strict=True))


@functools.partial(jax.jit, static_argnums=0)
def gradient_pair(layer, params, x, ctx, dy):
    """The gradients, hand-written and autodiff's."""
    return hand_written(layer, ctx, params, x)[1](dy), reference(layer, ctx, params, x)[1](dy)


@functools.cache
def measured(case: Case) -> dict:
    """Every measurement of the case in its own setting."""
    return jax.device_get(measure(case, *setting(case)))


@functools.partial(jax.jit, static_argnums=0)
def measure(case: Case, params, x, ctx, dy) -> dict:
    """{"pairs": name of each measurement -> (measured, expected), "y": the output, "cache": its floating arrays}."""
    layer = case.layer
    _, back = hand_written(layer, ctx, params, x)
    hand = back(dy)
    y, oracle = reference(layer, ctx, params, x)
    pairs = {"gradient": (hand, oracle(dy))}

    evaluation = Context(None, ctx.state, train=False)
    off = lambda way: way(layer, evaluation, params, x)[1](dy)
    pairs["evaluation"] = (off(hand_written), off(reference))

    other = noise(dy, 11)
    mix = lambda a, b: jax.tree.map(lambda a, b: 2 * a - 3 * b, a, b)
    pairs["linear"] = (back(mix(dy, other)), mix(hand, back(other)))
    zeros = lambda tree: jax.tree.map(jnp.zeros_like, tree)
    pairs["zero"] = (back(zeros(dy)), zeros(hand))

    p_dot, x_dot = noise(params, 12), noise(x, 13)
    moved = lambda h: layer.forward(added(params, p_dot, h), added(x, x_dot, h) if is_floating(x) else x, ctx)[0]
    y_dot = jax.jvp(moved, (0.0,), (1.0,))[1]
    dx_dot = dot(hand["dx"], x_dot) if is_floating(x) else 0
    pairs["adjoint"] = (dot(hand["grads"], p_dot) + dx_dot, dot(dy, y_dot))
    h = float(jnp.finfo(jnp.float64).eps ** (1 / 3))
    pairs["differences"] = (jax.tree.map(lambda a, b: (a - b) / (2 * h), moved(h), moved(-h)), y_dot)

    curved = lambda way: jax.jvp(lambda p: way(layer, ctx, p, x)[1](dy)["grads"], (params,), (p_dot,))[1]
    pairs["second_order"] = (curved(hand_written), curved(reference))

    y_adapter, back_adapter = reference(Adapter(layer), ctx, params, x)
    pairs["adapter"] = ((y_adapter, back_adapter(dy)), (y, hand))
    if not couples_batch(case):
        pairs |= per_example(layer, params, x, ctx, dy, oracle)
    cache = [a for a in jax.tree.leaves(layer.forward(params, x, ctx)[1]) if is_floating(a)]
    return {"pairs": pairs, "y": y, "cache": cache}


def per_example(layer, params, x, ctx, dy, oracle) -> dict:
    """What single examples give; the oracle sees a dy that is zero but for one row."""
    cache = layer.forward(params, x, ctx)[1]
    factors, grads = (layer.sweep(rule, params, cache, dy)[1] for rule in (jaxbp.rules.factors, jaxbp.rules.gradient))
    of_factors = lambda f: jax.tree.map(f, factors, is_leaf=lambda node: isinstance(node, jaxbp.Factors))
    contracted = jax.tree.map(lambda c, g: c.reshape(g.shape), of_factors(lambda f: f.gradient()), grads)
    pairs = {"factors": (contracted, grads)}
    if isinstance(layer, (jaxbp.Stack, jaxbp.Reversible)):  # there the depth leads the batch axis
        return pairs
    row = lambda n, d: jnp.where(jnp.arange(ROWS).reshape(-1, *[1] * (d.ndim - 1)) == n, d, 0)
    alone = jax.lax.map(lambda n: oracle(jax.tree.map(lambda d: row(n, d), dy))["grads"], jnp.arange(ROWS))
    norms = jax.tree.map(lambda g: jnp.sum(g * g, range(1, g.ndim)), alone)
    pairs["norms"] = (of_factors(lambda f: f.squared_norms()), norms)
    pairs["per_example"] = (layer.sweep(jaxbp.rules.example_gradients, params, cache, dy)[1], alone)
    return pairs


def added(tree, direction, h):
    return jax.tree.map(lambda a, v: a + h * v, tree, direction)


class Adapter:
    """The custom_vjp function of a layer, seen as a forward."""

    def __init__(self, layer):
        self.function = jaxbp.as_function(layer)

    def forward(self, params, x, ctx):
        return self.function(params, x, ctx), None
