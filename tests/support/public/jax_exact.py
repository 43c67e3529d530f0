"""Rules of jax that are exact."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.scipy.special as special
import numpy as np

from .references import determinant, exponential_integral, exponential_integral_3, hurwitz, hypergeometric
from .table import between, normal, plain, public

MATRIX = normal(4, 4) + 4 * np.eye(4)
SINGULAR = np.vstack([MATRIX[:3], MATRIX[0] + MATRIX[1]])


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
