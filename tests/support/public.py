"""Public functions that bring their own derivative: arguments, a plain reference where one is needed, the verdict.

Every jax.custom_vjp and jax.custom_jvp of jax, optax, flax and equinox that runs on a CPU in float64 is here once:

- exact: the rule is the derivative of the forward, to rounding;
- approximate: to an accuracy that the source states, named at the entry (a solver's tolerance, a cast to float32);
- a departure: the rule is another thing on purpose, and the check must say so, leaf by leaf;
- refused: it raises when differentiated, on purpose.

An entry has a reference where autodiff of the forward cannot serve: a loop of unknown length, a primitive without a
rule, bits taken apart, or a point where the naive derivative is wrong and the custom rule mends it.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import jax.scipy.special as special
import numpy as np

from jaxbp.check import Cause
from jaxbp.check.truth import FLOAT64_TOLERANCE

FLOAT32 = 1e-5  # the accuracy of a rule that casts to float32: some roundings of 6e-8
Example = tuple[Callable, tuple, Callable | None]  # the function, its arguments, the reference


@dataclass(frozen=True)
class Public:
    """One function. make() imports its package, and returns the function, the arguments and the reference or None."""

    package: str
    name: str
    make: Callable[[], Example]
    accuracy: float = FLOAT64_TOLERANCE
    stated: str = ""  # where the accuracy is stated
    departs: dict[str, str] = field(default_factory=dict)  # leaf that must fail -> words of its cause ("": any)
    refused: str = ""  # words of the error that differentiating raises
    suite: Literal["fast", "slow", "nightly"] = "nightly"  # "slow" runs in CI too: some of every package and kind

    def __str__(self) -> str:
        return f"{self.package}-{self.name}"


TABLE: list[Public] = []


def public(package: str, *arguments: Any, reference: Callable | None = None, **facts: Any) -> Callable:
    """Enters a function `make() -> public function` into the table under its name, with arguments."""

    def enter(make: Callable[[], Callable]) -> Callable:
        TABLE.append(Public(package, make.__name__, lambda: (make(), arguments, reference), **facts))
        return make

    return enter


def peer(module: str, name: str, make: Callable, *arguments: Any, reference: Any = None, **facts: Any) -> None:
    """The same for make(module) -> function, the module imported only then."""
    late = lambda: (make(importlib.import_module(module)), arguments, reference)
    TABLE.append(Public(module.partition(".")[0], name, late, **facts))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).normal(size=shape)


def between(low: float, high: float, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).uniform(low, high, shape)


# Plain references.

NODES, WEIGHTS = (a / 2 for a in np.polynomial.legendre.leggauss(80))
NODES = NODES + 0.5  # Gauss-Legendre on [0, 1]
BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)
identity = lambda x: x


def exponential_integral(x):
    """Ei(x) = gamma + log |x| + sum_k x^k / (k k!)."""
    k = np.arange(1, 60)
    coefficients = 1 / np.array([float(i) * math.factorial(i) for i in k])
    return np.euler_gamma + jnp.log(jnp.abs(x)) + jnp.sum(coefficients * x[:, None] ** k, 1)


def exponential_integral_3(x):
    """E_3(x) = integral over u in [0, 1] of u exp(-x / u)."""
    return jnp.sum(WEIGHTS * NODES * jnp.exp(-x[:, None] / NODES), 1)


def hypergeometric(above, below, x, terms=150):
    """sum_k prod (a)_k / prod (b)_k x^k / k!."""

    def step(carry, k):
        term, total = carry
        factor = lambda many: math.prod((a + k for a in many), start=1.0)
        term = term * factor(above) / factor(below) * x / (k + 1)
        return (term, total + term), None

    return jax.lax.scan(step, (jnp.ones_like(x), jnp.ones_like(x)), jnp.arange(terms, dtype=x.dtype))[0][1]


def hurwitz(x, q, terms=20):
    """The Euler-Maclaurin sum of zeta(x, q)."""
    far = q + terms
    total = sum((q + k) ** -x for k in range(terms)) + far ** (1 - x) / (x - 1) + far**-x / 2
    for j, b in enumerate(BERNOULLI, 1):
        rising = math.prod((x + i for i in range(2 * j - 1)), start=1.0)
        total = total + b / math.factorial(2 * j) * rising * far ** (1 - x - 2 * j)
    return total


def determinant(a):
    """The sum over permutations."""
    orders = list(itertools.permutations(range(len(a))))
    sign = lambda order: (-1) ** sum(i > j for i, j in itertools.combinations(order, 2))
    return sum(sign(order) * math.prod(a[i, j] for i, j in enumerate(order)) for order in orders)


def attention(q, k, v, bias=0.0):
    """softmax(q k' + bias) v over the last two axes."""
    return jax.nn.softmax(jnp.einsum("...qc,...kc->...qk", q, k) + bias) @ v


def normalized(x, weight, bias, centre=True):
    x = x - x.mean(-1, keepdims=True) if centre else x
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight + bias


def seven_sines(x, a):
    for _ in range(7):
        x = jnp.sin(a * x)
    return x


# jax: rules that are exact.

MATRIX = normal(4, 4) + 4 * np.eye(4)
SINGULAR = np.vstack([MATRIX[:3], MATRIX[0] + MATRIX[1]])


def plain(name: str, function: Callable, *arguments: Any, reference: Callable | None = None, **facts: Any) -> None:
    """The same for a function of jax that needs no import."""
    TABLE.append(Public("jax", name, lambda: (function, arguments, reference), **facts))


plain("relu", jax.nn.relu, normal(3, 5), suite="fast")
plain("relu6", jax.nn.relu6, 3 * normal(3, 5))
plain("softmax", jax.nn.softmax, normal(3, 5), suite="fast")
plain("softmax_where", lambda x: jax.nn.softmax(x, where=np.arange(5) != 2), normal(3, 5))
plain("log1mexp", jax.nn.log1mexp, between(0.1, 3, 7))
plain("logaddexp", lambda x, y: jnp.logaddexp(x, y), normal(5), normal(5, seed=1))
plain("logaddexp2", lambda x, y: jnp.logaddexp2(x, y), normal(5), normal(5, seed=1))
plain("i0", jnp.i0, normal(5))
plain("sinc", jnp.sinc, np.array([0, 0.3, -1.7]))
plain("slogdet_small", lambda a: jnp.linalg.slogdet(a)[1], MATRIX[:2, :2])
plain("slogdet_lu", lambda a: jnp.linalg.slogdet(a)[1], MATRIX)
plain("det", jnp.linalg.det, MATRIX)
plain("pinv_wide", jnp.linalg.pinv, normal(3, 5))
plain("pinv_tall", jnp.linalg.pinv, normal(5, 3))
plain("erfcx", special.erfcx, normal(5))
plain("dawsn", special.dawsn, normal(5))
plain("logit", special.logit, between(0.1, 0.9, 5))
plain("xlogy", special.xlogy, between(0.1, 3, 5), between(0.1, 3, 5, seed=1), suite="fast")
plain("xlog1py", special.xlog1py, between(0.1, 3, 5), between(0.1, 3, 5, seed=1))
plain("xlogx", special.entr, between(0.1, 3, 5))
plain("log_ndtr", special.log_ndtr, np.array([-8, -2, 0.3, 2, 7]))
plain("sici", special.sici, between(0.2, 9, 5))
plain("fresnel", special.fresnel, normal(5))
plain("poch", special.poch, between(0.5, 3, 5), between(0.5, 3, 5, seed=1))
plain("owens_t", special.owens_t, between(0.2, 2, 5), between(0.2, 2, 5, seed=1))

plain(
    "slogdet_qr",
    lambda a: jnp.linalg.slogdet(a, method="qr")[1],
    MATRIX,
    reference=lambda a: jnp.log(jnp.abs(determinant(a))),
)
plain("det_singular", jnp.linalg.det, np.stack([SINGULAR, MATRIX]), reference=jax.vmap(determinant))
plain("zeta", lambda x, q: special.zeta(x, q), between(1.5, 5, 5), between(0.5, 3, 5, seed=1), reference=hurwitz)
plain("expi", special.expi, between(0.2, 5, 5) * np.array([1, -1, 1, -1, 1]), reference=exponential_integral)
plain("expn", lambda x: special.expn(np.array(3), x), between(0.2, 3, 5), reference=exponential_integral_3)
plain(
    "hyp1f1",
    lambda a, b, x: special.hyp1f1(a, b, x),
    between(0.5, 3, 3),
    between(0.5, 3, 3, seed=1),
    between(0.1, 2, 3, seed=2),
    reference=lambda a, b, x: hypergeometric([a], [b], x),
)
plain(
    "hyp2f1",
    lambda a, b, c, x: special.hyp2f1(a, b, c, x),
    between(0.5, 3, 2),
    between(0.5, 1.5, 2, seed=1),
    between(2, 3, 2, seed=2),
    between(0.1, 0.6, 2, seed=3),
    reference=lambda a, b, c, x: hypergeometric([a, b], [c], x),
)


# jax: exact, and longer to say.


@public("jax", normal(5), normal(5, seed=1))
def wofz():
    def parts(x, y):
        w = special.wofz(jax.lax.complex(x, y))
        return w.real, w.imag

    return parts


@public("jax", normal(5), reference=lambda x: x * 2.0 ** -jax.lax.stop_gradient(jnp.frexp(x)[1]), suite="slow")
def frexp():
    return lambda x: jnp.frexp(x)[0]  # its forward takes bits apart


@public("jax", between(0.5, 3, 3), reference=jnp.sqrt, suite="fast")
def custom_root():
    newton = lambda f, x: jax.lax.fori_loop(0, 30, lambda i, x: x - f(x) / (2 * x), x)
    solve = lambda g, y: y / g(jnp.ones_like(y))
    return lambda a: jax.lax.custom_root(lambda x: x * x - a, jnp.ones_like(a), newton, solve)


@public("jax", normal(5), reference=lambda x: jnp.sin(x) * x.sum())
def exported():
    with jax.enable_x64(True):
        sines = jax.export.export(jax.jit(lambda x: jnp.sin(x) * x.sum()))(jax.ShapeDtypeStruct((5,), np.float64))
    return lambda x: sines.call(x)


@public("jax", normal(5), normal(5, seed=1), reference=lambda x, y: x * jnp.sin(y))
def custom_gradient():
    @jax.custom_gradient
    def product(x, y):
        return x * jnp.sin(y), lambda dy: (dy * jnp.sin(y), dy * x * jnp.cos(y))

    return lambda x, y: product(x, y)


# jax: approximate.


ATTENTION = "jax.experimental.pallas.ops.tpu.flash_attention"
SPLASH = "jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_kernel"
INTERPRETED = "the kernel casts to float32 (interpreted here)"
BELOW = np.tri(5, dtype=bool)

peer(
    "jax.experimental.ode",
    "odeint",
    lambda ode: lambda y0, t, rate: ode.odeint(lambda y, t, rate: -rate * y, y0, t, rate),
    between(0.5, 1, 3),
    np.array([0, 0.5, 1.3]),
    between(0.5, 1, 3, seed=1),
    accuracy=1e-6,
    stated="rtol = atol = 1.4e-8 a step, forward and backward",
    reference=lambda y0, t, rate: y0 * jnp.exp(-rate * (t - t[0])[:, None]),
)
peer(
    ATTENTION,
    "flash_attention_reference",
    lambda module: lambda q, k, v, ab: module.mha_reference(q, k, v, ab),
    normal(1, 2, 5, 3),
    normal(1, 2, 7, 3),
    normal(1, 2, 7, 3, seed=1),
    normal(1, 2, 5, 7),
    accuracy=FLOAT32,
    stated="_mha_reference_bwd casts to float32",
    reference=attention,
)
peer(
    SPLASH,
    "splash_attention_reference",
    lambda module: lambda q, k, v: module.attention_reference_custom(BELOW, q, k, v, None).astype(q.dtype),
    normal(5, 3),
    normal(5, 3, seed=1),
    normal(5, 3, seed=2),
    accuracy=FLOAT32,
    stated="it casts to float32, forward and backward",
    reference=lambda q, k, v: attention(q, k, v, jnp.where(BELOW, 0, -1e9)),
)
peer(
    "jax.experimental.pallas.ops.gpu.layer_norm",
    "pallas_layer_norm",
    lambda module: lambda x, weight, bias: module.layer_norm(x, weight, bias, interpret=True),
    normal(1, 2, 5),
    normal(5),
    normal(5, seed=1),
    accuracy=FLOAT32,
    stated=INTERPRETED,
    reference=normalized,
)
peer(
    "jax.experimental.pallas.ops.gpu.rms_norm",
    "pallas_rms_norm",
    lambda module: lambda x, weight, bias: module.rms_norm(x, weight, bias, interpret=True),
    normal(1, 2, 5),
    normal(5),
    normal(5, seed=1),
    accuracy=FLOAT32,
    stated=INTERPRETED,
    reference=lambda *arguments: normalized(*arguments, centre=False),
    suite="slow",
)


@public(
    "jax",
    normal(1, 16, 1, 16),
    normal(1, 16, 1, 16, seed=1),
    normal(1, 16, 1, 16, seed=2),
    accuracy=FLOAT32,
    stated="the kernel takes float32 (interpreted here)",
    reference=lambda q, k, v: attention(*(a.swapaxes(1, 2) for a in (q, k, v))).swapaxes(1, 2),
)
def pallas_attention():
    from jax.experimental.pallas.ops.gpu.attention import BlockSizes, mha

    blocks = ("block_q", "block_k", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
    sizes = BlockSizes(**dict.fromkeys(blocks, 16))
    single = lambda *arrays: [a.astype(np.float32) for a in arrays]
    return lambda q, k, v: mha(*single(q, k, v), None, block_sizes=sizes, interpret=True).astype(q.dtype)


# jax: departures. The last three are the idioms that documentation and papers show, not a function of jax.


peer(
    "jax._src.ad_checkpoint",
    "primal_left_tangent_right",
    lambda module: lambda x, _x: module.primal_left_tangent_right(x, _x),
    normal(5),
    normal(5, seed=1),
    departs={"x": Cause.ZERO, "_x": Cause.SWAPPED},
    suite="slow",
)


@public("jax", normal(5), departs={"x": Cause.SIGN}, suite="fast")
def gradient_reversal():
    reverse = jax.custom_vjp(identity)
    reverse.defvjp(lambda x: (x, None), lambda _, dy: (-dy,))
    return lambda x: reverse(x)


@public("jax", normal(5), departs={"x": ""})
def straight_through_round():
    rounded = jax.custom_vjp(lambda x: jnp.round(x))
    rounded.defvjp(lambda x: (jnp.round(x), None), lambda _, dy: (dy,))
    return lambda x: rounded(x)


@public("jax", normal(5), departs={"x": ""})
def clipped_gradient():
    clipped = jax.custom_vjp(identity)
    clipped.defvjp(lambda x: (x, None), lambda _, dy: (jnp.clip(dy, -0.5, 0.5),))
    return lambda x: clipped(x)


# optax.

LOGSOFTMAX = "optax.losses._classification"
SOME_ZERO = np.where(np.arange(5) == 2, 0, between(0.1, 1, 3, 5))

peer(
    "optax",
    "scale_gradient",
    lambda optax: lambda x: optax.scale_gradient(x, 0.3),
    normal(5),
    departs={"x": "0.3"},
    suite="fast",
)
peer("optax", "projection_simplex", lambda optax: lambda x: optax.projections.projection_simplex(x), normal(5))
peer(
    LOGSOFTMAX,
    "weighted_logsoftmax",
    lambda module: lambda x, weights: module.weighted_logsoftmax(x, weights),
    normal(3, 5),
    between(0.1, 1, 3, 5),
)
# Where a weight is 0, autodiff of the forward's `where` gives 0 for its derivative.
peer(
    LOGSOFTMAX,
    "weighted_logsoftmax_zero",
    lambda module: lambda x, weights: module.weighted_logsoftmax(x, weights),
    normal(3, 5),
    SOME_ZERO,
    reference=lambda x, weights: weights * jax.nn.log_softmax(x),
    suite="slow",
)


# flax.

FP8, E4M3, E5M2, PRODUCT = "flax.linen.fp8_ops", jnp.float8_e4m3fn, jnp.float8_e5m2, (((1,), (0,)), ((), ()))
UPDATED = {"scale": "", "history": ""}  # their "gradients" are their next values

peer(
    FP8,
    "in_qdq",
    lambda fp8: lambda x, scale, history: fp8.in_qdq(jnp.float64, E4M3, x, scale, history),
    normal(5),
    np.ones(1),
    np.zeros(4),
    departs={"x": ""} | UPDATED,
)
peer(
    FP8,
    "out_qdq",
    lambda fp8: lambda x, scale, history: fp8.out_qdq(jnp.float64, E5M2, x, scale, history),
    normal(5),
    np.ones(1),
    np.zeros(4),
    departs={"x": ""} | UPDATED,
)
peer(
    FP8,
    "in_q",
    lambda fp8: lambda x, scale, history: fp8.in_q(jnp.float64, E4M3, x, scale, history)[1],
    normal(5),
    np.ones(1),
    np.linspace(1, 2, 4),
    departs=UPDATED,
    suite="slow",
)
peer(
    FP8,
    "out_dq",
    lambda fp8: lambda left, right, out: fp8.out_dq(jnp.float64, left, right, out),
    between(0.5, 2, 1),
    between(0.5, 2, 1, seed=1),
    normal(5),
    departs={"left": Cause.ZERO, "right": Cause.ZERO, "out": Cause.FACTOR},
)
peer(
    FP8,
    "dot_general_with_precision",
    lambda fp8: lambda left, right: fp8.dot_general_with_precision(left, right, PRODUCT),
    normal(3, 5),
    normal(5, 2),
)


@public("flax", normal(3, 5), normal(5, 2), departs={"left": "", "right": ""})
def fp8_scaled_dot_general():
    from flax.linen.fp8_ops import fp8_scaled_dot_general

    names = [f"{side}_{what}" for side in ("lhs", "rhs", "grad") for what in ("scale", "amax_history")]
    meta = {name: np.ones(1) if name.endswith("scale") else np.zeros(4) for name in names}
    return lambda left, right: fp8_scaled_dot_general(
        left,
        right,
        PRODUCT,
        preferred_element_type=jnp.float64,
        quantize_compute_type=jnp.float64,
        **{name: jnp.asarray(a) for name, a in meta.items()},
    )


@public("flax", normal(3, 5), normal(5, 2), departs={"kernel": ""})
def linen_custom_vjp():
    import flax.linen as nn

    class Signed(nn.Module):
        """Dense, with the sign of the parameters' gradient: the example of the documentation."""

        @nn.compact
        def __call__(self, x):
            def backward(pullback, dy):
                params, dx = pullback(dy)
                return jax.tree.map(jnp.sign, params), dx

            plain = lambda layer, x: layer(x)
            run = nn.custom_vjp(plain, lambda layer, x: nn.vjp(plain, layer, x), backward)
            return run(nn.Dense(2, use_bias=False, param_dtype=jnp.float64), x)

    return lambda x, kernel: Signed().apply({"params": {"Dense_0": {"kernel": kernel}}}, x)


@public("flax", normal(5), normal(5, seed=1), reference=lambda x, y: jnp.sin(x) * y, suite="slow")
def nnx_custom_vjp():
    from flax import nnx

    class Pair(nnx.Module):
        def __init__(self, x, y):
            self.x, self.y = nnx.Param(x), nnx.Param(y)

    @nnx.custom_vjp(graph=False, graph_updates=False)
    def product(pair):
        return jnp.sin(pair.x[...]) * pair.y[...]

    def backward(kept, dy):
        x, y = kept
        return (Pair(jnp.cos(x) * dy * y, jnp.sin(x) * dy),)

    product.defvjp(lambda pair: (product(pair), (pair.x[...], pair.y[...])), backward)
    return lambda x, y: product(Pair(x, y))


# equinox.

INTERNAL = "equinox.internal"

peer("equinox", "error_if", lambda equinox: lambda x: equinox.error_if(x, jnp.any(x > 100), "too large"), normal(5))
peer("equinox", "backward_nan", lambda equinox: lambda x: equinox.debug.backward_nan(x * x), normal(5))
peer(INTERNAL, "nextafter", lambda module: lambda x: module.nextafter(x), normal(5), reference=identity)
peer(INTERNAL, "prevbefore", lambda module: lambda x: module.prevbefore(x), normal(5), reference=identity)
peer(
    INTERNAL,
    "nondifferentiable",
    lambda module: lambda x: module.nondifferentiable(x),
    normal(5),
    refused="cannot be autodifferentiated",
    suite="slow",
)


@public("equinox", normal(5), between(0.5, 1.5, 5), reference=seven_sines, suite="slow")
def checkpointed_while_loop():
    import equinox.internal

    more, step = lambda carry: carry[0] < 7, lambda a: lambda carry: (carry[0] + 1, jnp.sin(a * carry[1]))
    return lambda x, a: equinox.internal.while_loop(more, step(a), (0, x), kind="checkpointed", checkpoints=3)[1]


@public("equinox", normal(5), normal(5, seed=1), reference=lambda x, y: x * jnp.sin(y), suite="slow")
def filter_custom_vjp():
    import equinox

    @equinox.filter_custom_vjp
    def product(pair, name):
        return pair[0] * jnp.sin(pair[1])

    product.def_fwd(lambda perturbed, pair, name: (product(pair, name), None))
    product.def_bwd(lambda kept, dy, perturbed, pair, name: (dy * jnp.sin(pair[1]), dy * pair[0] * jnp.cos(pair[1])))
    return lambda x, y: product((x, y), "a name")


@public("equinox", normal(5), departs={"x": Cause.FACTOR})
def filter_custom_jvp():
    import equinox

    @equinox.filter_custom_jvp
    def call(x, *, f):
        return f(x)

    call.def_jvp(lambda primals, tangents, *, f: (f(*primals), 2 * tangents[0]))  # the example of the documentation
    return lambda x: call(x, f=lambda x: x + 1)
