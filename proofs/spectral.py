"""Gradients of functions of symmetric matrices at equal and nearly equal eigenvalues, beside the truth.

    python -m proofs.spectral

Prints a table in Markdown: the largest error of the gradient of <M, g(A)> relative to its largest entry. The truth is
made of central differences of mpmath's own g(A) in 50 digits. A = Q diag(w) Q^T with Q exact in binary numbers, 4 x 4.
Ours is jaxbp.ops.spectral. The others backpropagate through eigenvectors, with F_ij for 1 / (w_j - w_i):

    JAX eigh         jax.grad through jnp.linalg.eigh
    zero             F = 0 where the gap is below the root of the rounding
    Lorentzian       F = gap / (gap^2 + 1e-12)                                 (Liao et al. 2019, arXiv 1903.09650)
    Taylor           the first 101 terms of 1 / (w_i (1 - w_j / w_i))          (Wang et al. 2021, arXiv 2104.03821)
    Pade             the [50/50] approximant of that series, which is the quotient itself; an infinite one takes the
                     value of the largest finite one                           (Song et al. 2021, arXiv 2105.02498)
    power iteration  jax.grad through 19 steps for each vector, and deflation   (Wang et al. 2019, arXiv 1906.09023)

Exit status 1 if one of ours in float64 is not below 1e-9.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from jaxbp import ops
from jaxbp.commands import cli
from jaxbp.commands.__main__ import guarded
from jaxbp.ops.spectral_functions import SpectralFunction, spectral_function
from jaxbp.typed import Typed

DIGITS = 50
FLOOR = 2.0**-6
SPECTRA = {
    "distinct": (1.0, 2.0, 4.0, 7.0),
    "equal": (2.0, 2.0, 5.0, 5.0),
    "equal to 1e-12": (2.0, 2.0 * (1 + 1e-12), 5.0, 5.0 * (1 + 1e-12)),
    "zero": (0.0, 0.0, 2.0, 5.0),
}
EXACT = {  # in mpmath, of one eigenvalue
    "sqrt": mpmath.sqrt,
    "inverse_sqrt": lambda w: 1 / mpmath.sqrt(w),
    "log": mpmath.log,
    "exp": mpmath.exp,
}
Q = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
Gradient = Callable[[jax.Array, jax.Array, SpectralFunction, float | None], jax.Array]


def truth(a: np.ndarray, m: np.ndarray, name: str, floor: float | None) -> np.ndarray:
    """The gradient in A of <M, g(A)>, symmetric, by central differences in 50 digits."""
    with mpmath.workdps(DIGITS):
        exact = EXACT[name]
        g = exact if floor is None else lambda w: exact(max(w, mpmath.mpf(floor)))
        a_exact, m_exact = mpmath.matrix(a.tolist()), mpmath.matrix(m.tolist())
        h = mpmath.mpf(10) ** (-DIGITS // 3)

        def value(moved: mpmath.matrix) -> mpmath.mpf:
            w, v = mpmath.eigsy(moved)
            y = v * mpmath.diag([g(x) for x in w]) * v.T
            return mpmath.fsum(m_exact[i, j] * y[i, j] for i in range(len(a)) for j in range(len(a)))

        gradient = np.zeros_like(a, np.float64)
        for i, j in zip(*np.tril_indices(len(a)), strict=True):
            ends = []
            for sign in (1, -1):
                moved = a_exact.copy()
                moved[i, j] += sign * h / 2
                moved[j, i] += sign * h / 2
                ends.append(value(moved))
            gradient[i, j] = gradient[j, i] = float((ends[0] - ends[1]) / (2 * h))
        return gradient


def through_vectors(a: jax.Array, m: jax.Array, function: SpectralFunction, floor: float | None) -> jax.Array:
    """<M, V g(w) V^T> by jnp.linalg.eigh, for jax.grad."""
    w, v = jnp.linalg.eigh(a)
    return jnp.sum(m * ((v * function.value(floored(w, floor))) @ v.T))


def floored(w: jax.Array, floor: float | None) -> jax.Array:
    """max(w, floor)."""
    return w if floor is None else jnp.maximum(w, floor)


def remedy(
    kernel: Callable[[jax.Array, jax.Array], jax.Array],
    a: jax.Array,
    m: jax.Array,
    function: SpectralFunction,
    floor: float | None,
) -> jax.Array:
    """The gradient through eigenvectors with kernel(w_i, w_j) for 1 / (w_i - w_j), where i != j."""
    w, v = jnp.linalg.eigh(a)
    g = function.value(floored(w, floor))
    slope = jax.vmap(jax.grad(lambda w: function.value(floored(w, floor))))(w)
    both = v.T @ (m + m.T) @ v
    f = jnp.where(jnp.eye(len(w), dtype=bool), 0, kernel(w[None, :], w[:, None]))
    inner = f * (both * g[None, :]) + jnp.diag(slope * jnp.diag(both) / 2)  # V^T dV = V^T (M + M^T) V g
    return v @ ((inner + inner.T) / 2) @ v.T


def zero(high: jax.Array, low: jax.Array) -> jax.Array:
    gap = high - low
    is_equal = jnp.abs(gap) <= jnp.finfo(gap.dtype).eps ** 0.5 * jnp.max(jnp.abs(high))
    return jnp.where(is_equal, 0, 1 / jnp.where(is_equal, 1, gap))


def lorentzian(high: jax.Array, low: jax.Array) -> jax.Array:
    gap = high - low
    return gap / (gap * gap + 1e-12)


def series(total: Callable[[jax.Array], jax.Array], high: jax.Array, low: jax.Array) -> jax.Array:
    """total(r) / larger, r = smaller / larger, with the sign of the gap."""
    large, small = jnp.maximum(high, low), jnp.minimum(high, low)
    return jnp.where(high >= low, 1, -1) * total(small / large) / large


def pade(high: jax.Array, low: jax.Array) -> jax.Array:
    f = series(lambda r: 1 / (1 - r), high, low)
    is_finite = jnp.isfinite(f)
    return jnp.where(is_finite, f, jnp.max(jnp.where(is_finite, f, 0)))


def by_power_iteration(a: jax.Array, m: jax.Array, function: SpectralFunction, floor: float | None) -> jax.Array:
    """<M, g(A)> by power iteration from the vectors of eigh, and deflation, for jax.grad."""
    _, start = jnp.linalg.eigh(jax.lax.stop_gradient(a))
    y, rest = jnp.zeros_like(a), a
    for number in range(len(a) - 1, -1, -1):
        v = start[:, number]
        for _ in range(19):
            v = rest @ v
            v = v / jnp.linalg.norm(v)
        w = v @ rest @ v
        y = y + function.value(floored(w, floor)) * jnp.outer(v, v)
        rest = rest - w * jnp.outer(v, v)
    return jnp.sum(m * y)


def ours(a: jax.Array, m: jax.Array, function: SpectralFunction, floor: float | None) -> jax.Array:
    return jax.grad(lambda a: jnp.sum(m * ops.spectral(a, function, floor)))(a)


COLUMNS: dict[str, Gradient] = {
    "JAX eigh": jax.grad(through_vectors),
    "zero": partial(remedy, zero),
    "Lorentzian": partial(remedy, lorentzian),
    "Taylor": partial(remedy, partial(series, lambda r: sum(r**k for k in range(101)))),
    "Pade": partial(remedy, pade),
    "power iteration": jax.grad(by_power_iteration),
    "ours": ours,
}


def rows() -> list[tuple[str, str, str]]:
    """(spectrum, function, dtype) of every line; at zero the square root and the logarithm have a floor."""
    return [(s, f, d) for d in ("float64", "float32") for s in SPECTRA for f in ("sqrt", "log", "exp")]


def errors(spectrum: str, name: str, dtype: str, columns: dict[str, Gradient]) -> dict[str, float]:
    """Column: the largest error over the entries, relative to the largest entry of the truth."""
    floor = FLOOR if spectrum == "zero" and name != "exp" else None
    a = ((Q * np.array(SPECTRA[spectrum])) @ Q.T).astype(dtype)
    a = (a + a.T) / 2
    m = np.random.default_rng(0).normal(size=a.shape).astype(dtype)
    expected = truth(a.astype(np.float64), m.astype(np.float64), name, floor)
    function = spectral_function(name)
    table = {}
    for column, gradient in columns.items():
        result = np.asarray(gradient(jnp.asarray(a), jnp.asarray(m), function, floor), np.float64)
        error = np.max(np.abs((result + result.T) / 2 - expected)) / np.max(np.abs(expected))
        table[column] = float(error)
    return table


@dataclass(frozen=True)
class Options(Typed):
    """The program has no options."""


def main(words: Sequence[str]) -> int:
    """Prints the table, and returns the exit status."""
    cli.read_all(Options, words)
    print(f"| eigenvalues | function | dtype | {' | '.join(COLUMNS)} |")
    print("|---" * (3 + len(COLUMNS)) + "|")
    worst = 0.0
    with jax.enable_x64(True):
        for spectrum, name, dtype in rows():
            table = errors(spectrum, name, dtype, COLUMNS)
            cells = [f"{error:.0e}" if np.isfinite(error) else "nan" for error in table.values()]
            label = f"{name}, floor 1/64" if spectrum == "zero" and name != "exp" else name
            print(f"| {spectrum} | {label} | {dtype} | {' | '.join(cells)} |", flush=True)
            worst = max(worst, table["ours"] if dtype == "float64" else 0)
    print(f"\nours in float64: at most {worst:.1e}")
    return 0 if worst < 1e-9 else 1


if __name__ == "__main__":
    sys.exit(guarded(main))
