"""What the conformance matrix measures of a case, in one compiled program a case: hand-written beside the oracle.

The oracle is jax.vjp of the layer's own forward. Every entry of the result is a pair (got, want) of trees.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jaxbp
from jaxbp.core import Case, Context, cast, layer_types, leaf_layers

QUICK = {"xla_backend_optimization_level": 0}  # compiles in half the time
RECIPE = """{name} has no cases. A layer is one file: the mathematics at its top, forward and backward, and
    @classmethod
    def cases(cls): return [Case({short}(...), shaped(5, 3))]    # batch first, sizes distinct and coprime
Nothing else needs an edit: these tests, the gradient check and the benchmarks find it."""


def abstract(cls) -> bool:
    return cls.forward is jaxbp.Layer.forward or cls.__name__ in ("Activation", "Cell", "FromInput")


def concrete_layers() -> list[type]:
    ours = lambda name: name.startswith("jaxbp.") and not name.startswith("jaxbp.analysis.")  # tools of a pass
    return [cls for name, cls in layer_types().items() if ours(name) and not abstract(cls)]


def all_cases() -> list[Case]:
    return [case for cls in concrete_layers() for case in cls.cases()]


def couples_batch(case: Case) -> bool:
    return any(leaf.couples_batch for leaf in leaf_layers(case.layer))


def resized(spec, rows: int, dtype):
    """The case's spec with another batch size and floating dtype."""
    kind = lambda s: dtype if jnp.issubdtype(s.dtype, jnp.floating) else s.dtype
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct((rows, *s.shape[1:]), kind(s)), spec)


@functools.cache
def setting(case: Case, rows: int = 5, dtype=jnp.float64, params_dtype=None, train: bool = True, draw=None):
    """Random (params, x, ctx, dy) for the case; parameters are jittered so that none is zero or one."""
    key = jax.random.key(7)
    spec = resized(case.spec, rows, dtype)
    noise = lambda shape: np.random.default_rng((7, *shape)).normal(size=shape)  # NumPy's need no compilation
    jitter = lambda p: p + jnp.asarray(0.1 * noise(p.shape), p.dtype)
    params = jax.tree.map(jitter, cast(case.layer.init(key, spec), params_dtype or dtype))
    x = draw(spec) if draw else case.draw(jax.random.fold_in(key, 1), spec)
    ctx = Context(jax.random.fold_in(key, 2), cast(case.layer.init_state(spec), params_dtype or dtype), train)
    y = jax.eval_shape(lambda p, x: case.layer.forward(p, x, ctx)[0], params, x)
    return params, x, ctx, jax.tree.map(lambda s: jnp.asarray(noise(s.shape), s.dtype), y)


def reference(layer, ctx, params, x):
    """(y, dy -> (dparams, dx)) by jax.vjp; dx is None for integer inputs."""
    floating = all(jnp.issubdtype(a.dtype, jnp.floating) for a in jax.tree.leaves(x))
    if floating:
        return jax.vjp(lambda p, x: layer.forward(p, x, ctx)[0], params, x)
    y, back = jax.vjp(lambda p: layer.forward(p, x, ctx)[0], params)
    return y, lambda dy: (*back(dy), None)


def dot(a, b):
    return sum((jnp.vdot(u, v) for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)), jnp.zeros(()))


def direction(tree, seed):
    key = jax.random.key(seed)
    draw = lambda a: jax.random.normal(jax.random.fold_in(key, a.size), a.shape, a.dtype)
    return jax.tree.map(draw, tree)


def both(layer, params, x, ctx, dy):
    """(hand, oracle) gradients {"dx", "grads"}."""
    _, cache = layer.forward(params, x, ctx)
    dx, grads = layer.backward(params, cache, dy)
    dparams, dx_want = reference(layer, ctx, params, x)[1](dy)
    return {"dx": dx, "grads": grads}, {"dx": dx_want, "grads": dparams}


compiled_both = jax.jit(both, static_argnums=0)  # once for a layer and shapes
quick_both = jax.jit(both, static_argnums=0, compiler_options=QUICK)


def gradient_pair(case: Case, run=quick_both, **how):
    """`both` for a setting."""
    return run(case.layer, *setting(case, **how))


@functools.cache
def measured(case: Case) -> dict:
    """Name of each float64 check -> (got, want); one compiled program."""
    layer = case.layer
    params, x, ctx, dy = setting(case)
    evaluate = Context(None, ctx.state, train=False)
    rows = 5

    @functools.partial(jax.jit, compiler_options=QUICK)
    def everything(params, x, ctx, evaluate, dy):
        _, cache = layer.forward(params, x, ctx)
        back = lambda dy: dict(zip(("dx", "grads"), layer.backward(params, cache, dy), strict=True))
        hand = back(dy)
        y_oracle, oracle = reference(layer, ctx, params, x)
        named = lambda pair: {"dx": pair[1], "grads": pair[0]}
        out = {"gradient": (hand, named(oracle(dy)))}

        _, cache_off = layer.forward(params, x, evaluate)
        dx, grads = layer.backward(params, cache_off, dy)
        out["evaluation"] = ({"dx": dx, "grads": grads}, named(reference(layer, evaluate, params, x)[1](dy)))

        other = direction(dy, 11)
        mix = lambda a, b: jax.tree.map(lambda a, b: 2 * a - 3 * b, a, b)
        out["linear"] = (back(mix(dy, other)), mix(hand, back(other)))
        nothing = lambda tree: jax.tree.map(jnp.zeros_like, tree)
        out["zero"] = (back(nothing(dy)), nothing(hand))

        floating = hand["dx"] is not None
        p_dot, x_dot = direction(params, 12), direction(x, 13) if floating else None
        f = lambda p, x: layer.forward(p, x, ctx)[0]
        push = (
            (lambda: jax.jvp(f, (params, x), (p_dot, x_dot)))
            if floating
            else (lambda: jax.jvp(lambda p: f(p, x), (params,), (p_dot,)))
        )
        y_dot = push()[1]
        out["adjoint"] = (dot(hand["grads"], p_dot) + (dot(hand["dx"], x_dot) if floating else 0), dot(dy, y_dot))

        h = float(jnp.finfo(jnp.float64).eps ** (1 / 3))
        moved = lambda h: f(
            jax.tree.map(lambda p, v: p + h * v, params, p_dot),
            jax.tree.map(lambda a, v: a + h * v, x, x_dot) if floating else x,
        )
        out["differences"] = (jax.tree.map(lambda a, b: (a - b) / (2 * h), moved(h), moved(-h)), y_dot)

        through = lambda p: layer.backward(p, layer.forward(p, x, ctx)[1], dy)[1]
        exact = lambda p: reference(layer, ctx, p, x)[1](dy)[0]
        out["second_order"] = (jax.jvp(through, (params,), (p_dot,))[1], jax.jvp(exact, (params,), (p_dot,))[1])

        adapter = jaxbp.as_function(layer)
        y_adapter, adapter_back = reference(Adapter(adapter), ctx, params, x)
        out["adapter"] = ((y_adapter, named(adapter_back(dy))), (y_oracle, hand))

        if not couples_batch(case):
            row = lambda d: jnp.arange(rows).reshape(-1, *[1] * (d.ndim - 1))
            only = lambda n: jax.tree.map(lambda d: jnp.where(row(d) == n, d, 0), dy)
            alone = jax.lax.map(lambda n: oracle(only(n))[0], jnp.arange(rows))
            each = layer.sweep(jaxbp.rules.example_gradients, params, cache, dy)[1]
            factors = layer.sweep(jaxbp.rules.factors, params, cache, dy)[1]
            if not isinstance(layer, jaxbp.Stack):  # there the depth leads the batch axis
                out["per_example"] = (each, alone)
            norm = lambda g: jnp.sum(g * g, range(1, g.ndim))
            is_factor = lambda node: isinstance(node, jaxbp.Factors)
            contracted = jax.tree.map(lambda o: o.gradient(), factors, is_leaf=is_factor)
            restored = jax.tree.map(lambda c, g: c.reshape(g.shape), contracted, hand["grads"])
            out["factors"] = (restored, hand["grads"])
            norms = jax.tree.map(lambda o: o.squared_norms(), factors, is_leaf=is_factor)
            if not isinstance(layer, jaxbp.Stack):
                out["norms"] = (norms, jax.tree.map(norm, alone))
        return out

    return jax.device_get(everything(params, x, ctx, evaluate, dy))


class Adapter:
    """The custom_vjp function of a layer, seen as a forward."""

    def __init__(self, function):
        self.function = function

    def forward(self, params, x, ctx):
        return self.function(params, x, ctx), None
