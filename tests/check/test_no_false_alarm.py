"""No false alarm: more than 300 right gradients must pass at the default level, and no cause may be named.

Models and functions by 20 seeds; the seed chooses batch size 1, 2 or 7 and inputs of float64, float32 or bfloat16. Some
leaves are zero by structure, where every digit is rounding noise: a shift before a softmax, a bias before a mean is
subtracted, one constant added to all keys. Cases of one model and batch size share a compiled program, and the data of
the first. CI runs one seed of every model; all 20 are `nightly`.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.check import judge
from jaxbp.check.laws import precision
from jaxbp.check.problem import function_problem, gradient_problem, layer_problem, model_problem
from jaxbp.check.program import Program
from jaxbp.core import Context

SEEDS = range(20)
SIZES = (1, 2, 7)
DTYPES = (np.float64, np.float32, jnp.bfloat16)


class Draw:
    """Normal arrays in a dtype: draw(shape); with integers and keys of the same seed."""

    def __init__(self, seed, dtype):
        self.random, self.dtype, self.key = np.random.default_rng(seed), dtype, jax.random.key(seed)

    def __call__(self, *shape):
        return np.asarray(self.random.normal(size=shape)).astype(self.dtype)

    def classes(self, count, *shape):
        return self.random.integers(0, count, shape)


# Gradients of a loss, by hand.


def mlp(n, draw):
    hidden = lambda p, x: jnp.tanh(x @ p["w1"] + p["b1"])
    error = lambda p, x, t: hidden(p, x) @ p["w2"] + p["b2"] - t
    loss = lambda p, x, t: jnp.mean(jnp.sum(error(p, x, t) ** 2, 1)) / 2

    def gradient(p, x, t):
        h, dz2 = hidden(p, x), error(p, x, t) / len(x)
        dz1 = dz2 @ p["w2"].T * (1 - h * h)
        return {"w1": x.T @ dz1, "b1": dz1.sum(0), "w2": h.T @ dz2, "b2": dz2.sum(0)}

    params = {"w1": draw(3, 5), "b1": draw(5), "w2": draw(5, 2), "b2": draw(2)}
    return gradient_problem(gradient, loss, params, draw(n, 3), draw(n, 2))


def softmax_cross_entropy(n, draw):
    """The shift is added to every logit: its derivative is zero."""
    logits = lambda p, x: x @ p["w"] + p["b"] + p["shift"]
    loss = lambda p, x, t: -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits(p, x)), t[:, None], 1))

    def gradient(p, x, t):
        dz = (jax.nn.softmax(logits(p, x)) - jax.nn.one_hot(t, 5, dtype=x.dtype)) / len(x)
        return {"w": x.T @ dz, "b": dz.sum(0), "shift": dz.sum()}

    params = {"w": draw(3, 5), "b": draw(5), "shift": draw()}
    return gradient_problem(gradient, loss, params, draw(n, 3), draw.classes(5, n))


def centred(n, draw):
    """The batch's mean is taken off: the bias has no effect, and with one example nothing has."""
    return off_centre(n, draw, 1)


def antisymmetric(n, draw):
    """The same with an odd function: two examples cancel, and the whole gradient is rounding noise around zero."""
    return off_centre(n, draw, 0)


def off_centre(n, draw, shift):
    output = lambda p, x: x @ p["w"] + p["b"] - jnp.mean(x @ p["w"] + p["b"], 0)
    loss = lambda p, x: jnp.sum(jnp.sin(output(p, x) + shift))

    def gradient(p, x):
        dz = jnp.cos(output(p, x) + shift)
        dz = dz - jnp.mean(dz, 0)
        return {"w": x.T @ dz, "b": dz.sum(0)}

    return gradient_problem(gradient, loss, {"w": draw(3, 5), "b": draw(5)}, draw(n, 3))


def recurrent(n, draw):
    def states(p, x):
        h = [jnp.zeros((len(x), 5), x.dtype)]
        for t in range(x.shape[1]):
            h.append(jnp.tanh(x[:, t] @ p["u"] + h[-1] @ p["w"] + p["b"]))
        return h

    loss = lambda p, x: jnp.sum(states(p, x)[-1] ** 2) / 2

    def gradient(p, x):
        h = states(p, x)
        dh, grads = h[-1], jax.tree.map(jnp.zeros_like, p)
        for t in reversed(range(x.shape[1])):
            dz = dh * (1 - h[t + 1] ** 2)
            part = {"u": x[:, t].T @ dz, "w": h[t].T @ dz, "b": dz.sum(0)}
            dh, grads = dz @ p["w"].T, jax.tree.map(jnp.add, grads, part)
        return grads

    return gradient_problem(gradient, loss, {"u": draw(3, 5), "w": draw(5, 5) / 2, "b": draw(5)}, draw(n, 4, 3))


def embedding(n, draw):
    """Rows that no id names have the derivative zero."""
    loss = lambda table, ids: jnp.mean(jnp.sum(jnp.tanh(table[ids].sum(1)), 1))

    def gradient(table, ids):
        dy = (1 - jnp.tanh(table[ids].sum(1)) ** 2) / len(ids)
        return jnp.zeros_like(table).at[ids].add(jnp.broadcast_to(dy[:, None], (*ids.shape, table.shape[1])))

    return gradient_problem(gradient, loss, draw(11, 3), draw.classes(11, n, 4))


def numpy_regression(n, draw):
    """NumPy code throughout: there is no autodiff to compare with."""
    loss = lambda p, x, t: np.sum((np.asarray(x) @ np.asarray(p["w"]) + np.asarray(p["b"]) - np.asarray(t)) ** 2) / 2

    def gradient(p, x, t):
        x, dz = np.asarray(x), np.asarray(x) @ np.asarray(p["w"]) + np.asarray(p["b"]) - np.asarray(t)
        return {"w": x.T @ dz, "b": dz.sum(0)}

    return gradient_problem(gradient, loss, {"w": draw(3, 2), "b": draw(2)}, draw(n, 3), draw(n, 2))


# Functions with a custom_vjp.


def ruled(forward, kept, backward):
    """forward, with the rule dy -> backward(*kept(arguments), dy)."""
    function = jax.custom_vjp(forward)
    function.defvjp(lambda *arguments: (forward(*arguments), kept(*arguments)), lambda kept, dy: backward(*kept, dy))
    return function


def layer_norm(n, draw):
    """The shift is added to every feature before the mean is taken off: its derivative is zero."""
    centre = lambda x: x - x.mean(-1, keepdims=True)
    inverse = lambda x: 1 / jnp.sqrt(jnp.mean(centre(x) ** 2, -1, keepdims=True) + 1e-3)
    forward = lambda x, shift, scale, bias: centre(x + shift) * inverse(x + shift) * scale + bias

    def backward(x, shift, scale, bias, dy):
        r = inverse(x + shift)
        z, g = centre(x + shift) * r, dy * scale
        dx = r * (g - g.mean(-1, keepdims=True) - z * (g * z).mean(-1, keepdims=True))
        return dx, dx.sum(), (dy * z).sum(0), dy.sum(0)

    function = ruled(forward, lambda *arguments: arguments, backward)
    return function_problem(function, draw(n, 5), draw(), draw(5), draw(5))


def convolution(n, draw):
    """y[n, t, o] = sum_k x[n, t + k, i] w[k, i, o]."""
    windows = lambda x: jnp.stack([x[:, k : k + 5] for k in range(3)], 1)
    forward = lambda w, x: jnp.einsum("nkti,kio->nto", windows(x), w)

    def backward(w, x, dy):
        dx = sum(jnp.pad(jnp.einsum("nto,io->nti", dy, w[k]), ((0, 0), (k, 2 - k), (0, 0))) for k in range(3))
        return jnp.einsum("nkti,nto->kio", windows(x), dy), dx

    return function_problem(ruled(forward, lambda *arguments: arguments, backward), draw(3, 2, 4), draw(n, 7, 2))


def attention(n, draw):
    """One vector is added to all keys, which shifts every score of a query alike: its derivative is zero."""
    weights = lambda constant, k, q: jax.nn.softmax(jnp.einsum("nqc,nkc->nqk", q, k + constant))
    forward = lambda constant, k, q, v: jnp.einsum("nqk,nkc->nqc", weights(constant, k, q), v)

    def backward(constant, k, q, v, dy):
        a, da = weights(constant, k, q), jnp.einsum("nqc,nkc->nqk", dy, v)
        ds = a * (da - (a * da).sum(-1, keepdims=True))
        dk = jnp.einsum("nqk,nqc->nkc", ds, q)
        return dk.sum((0, 1)), dk, jnp.einsum("nqk,nkc->nqc", ds, k + constant), jnp.einsum("nqk,nqc->nkc", a, dy)

    function = ruled(forward, lambda *arguments: arguments, backward)
    return function_problem(function, draw(3), draw(n, 5, 3), draw(n, 4, 3), draw(n, 5, 3))


def logsumexp(n, draw):
    forward = lambda x: jax.nn.logsumexp(x, -1)
    function = ruled(forward, lambda x: (x, forward(x)), lambda x, y, dy: (dy[:, None] * jnp.exp(x - y[:, None]),))
    return function_problem(function, draw(n, 5))


# Layers and models of jaxbp.


def layer(model):
    def build(n, draw):
        x = draw(n, 3)
        spec = jax.ShapeDtypeStruct(x.shape, x.dtype)
        params = jax.tree.map(lambda p: draw(*p.shape) / 2, jax.eval_shape(lambda: model.init(draw.key, spec)))
        return layer_problem(model, params, x, Context(draw.key, model.init_state(spec)))

    return build


def model(body, loss, target, penalties=()):
    def build(n, draw):
        x = draw(n, 3)
        spec = jax.ShapeDtypeStruct(x.shape, x.dtype)
        params = jax.tree.map(lambda p: draw(*p.shape) / 2, jax.eval_shape(lambda: body.init(draw.key, spec)))
        batch = {"x": x, "y": target(n, draw), "weight": np.full(n, 1 / n)}
        return model_problem(body, loss, params, batch, Context(draw.key, body.init_state(spec)), penalties)

    return build


D, C = jaxbp.Dense, jaxbp.Chain
BLOCK = C((D(3), jaxbp.Tanh(), jaxbp.Dropout(0.3)))
TIED = jaxbp.Graph(
    (
        jaxbp.Node("a", D(3), ("x",)),
        jaxbp.Node("bend", jaxbp.Tanh(), ("a",)),
        jaxbp.Node("b", D(3), ("bend",), shares="a"),
        jaxbp.Node("sum", jaxbp.Add(), ("b", "x")),
    )
)
DROPPING = C((D(7), jaxbp.ReLU(), jaxbp.Dropout(0.3), D(5)))
BENDS = C((D(5), jaxbp.GELU(), D(4), jaxbp.ELU(), D(5), jaxbp.LeakyReLU(), D(4), jaxbp.Softplus(), D(2)))
real, label = lambda n, draw: draw(n, 2), lambda n, draw: draw.classes(5, n)

BY_HAND = (
    mlp,
    softmax_cross_entropy,
    centred,
    antisymmetric,
    recurrent,
    embedding,
    numpy_regression,
    layer_norm,
    convolution,
    attention,
    logsumexp,
)
BUILDERS = {f.__name__: f for f in BY_HAND} | {
    "tanh_squared_error": model(C((D(5), jaxbp.Tanh(), D(2))), jaxbp.SquaredError(), real, (jaxbp.Penalty(l2=0.1),)),
    "dropout_cross_entropy": model(DROPPING, jaxbp.SoftmaxCrossEntropy(), label),
    "silu_huber": model(C((D(5), jaxbp.SiLU(), D(2))), jaxbp.Huber(), real),
    "absolute_error": model(C((D(5), jaxbp.ReLU(), D(2))), jaxbp.AbsoluteError(), real),
    "hinge": model(D(5), jaxbp.MulticlassHinge(), label),
    "stack": layer(C((D(3), jaxbp.Stack(BLOCK, 3)))),
    "tied_graph": layer(TIED),
    "bends": layer(BENDS),
    "softmax": layer(C((D(5), jaxbp.Softmax()))),
}
EXACT_ONLY = {
    "numpy_regression": "JAX cannot trace it, so there are no lower precisions",
    "absolute_error": "ties are common in bfloat16, and there autodiff's derivative of abs is 1",
}
LOWER = (4, 8, 9, 0, 13, 17, 19)  # seeds for the lower precisions
assert len(BUILDERS) * len(SEEDS) >= 300


def by_seeds(names, seeds):
    """Every model with one of the seeds, so that all of them occur; and, nightly, with all of them."""
    for i, name in enumerate(names):
        seed = seeds[i % len(seeds)]
        yield pytest.param(name, (seed,), id=f"{name}-{seed}")
    for name in names:
        yield pytest.param(name, tuple(seeds), id=name, marks=pytest.mark.nightly)


def problem_of(name, seed, bases):
    """The seed's problem; all of one batch size share the first one's functions, and with them a compiled program."""
    n = SIZES[seed % 3]
    fresh = BUILDERS[name](n, Draw(seed, DTYPES[seed // 3 % 3]))
    return replace(bases.setdefault(n, fresh), leaves=fresh.leaves, dtypes=fresh.dtypes)


@pytest.fixture
def checking():
    """The settings of the public checks."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("checking")
@pytest.mark.parametrize(("name", "seeds"), [*by_seeds(BUILDERS, SEEDS)])
def test_right_gradients_pass(name, seeds, monkeypatch):
    compiled, bases = {}, {}

    class Shared(Program):
        def __init__(self, problem):
            super().__init__(problem)
            self._compiled = compiled.setdefault(problem.pullback, self._compiled)

    monkeypatch.setattr("jaxbp.check.judge.Program", Shared)
    for seed in seeds:
        report = judge.examine(problem_of(name, seed, bases), seed=seed)
        assert report.passed, f"seed {seed}\n{report}"
        assert not report.step
        assert not any(leaf.causes for leaf in report.leaves), f"seed {seed}\n{report}"
    assert len(compiled) == len({seed % len(SIZES) for seed in seeds})


@pytest.fixture
def compiled_quickly():
    """Without the compiler's optimizations: half the time, and more roundings."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.slow
@pytest.mark.usefixtures("checking", "compiled_quickly")
@pytest.mark.parametrize(("name", "seeds"), [*by_seeds([name for name in BUILDERS if name not in EXACT_ONLY], LOWER)])
def test_lower_precisions_pass(name, seeds):
    for seed in seeds:
        finding = precision(problem_of(name, seed, {}), DTYPES[1 + seed % 2])
        assert finding.passed, f"seed {seed}: {finding}"
