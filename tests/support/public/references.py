"""Plain references for functions whose forward autodiff cannot serve."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

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
