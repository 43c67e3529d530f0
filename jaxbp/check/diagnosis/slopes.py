"""What can be wrong in the derivative of a function of one value: an activation, a softmax, a norm."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxbp.check.diagnosis.flow import Piece
from jaxbp.check.diagnosis.mistakes import Mistake, Site
from jaxbp.check.report import Cause

EXPONENTIAL = ("tanh", "logistic", "exp", "exp2", "expm1", "log", "log1p", "sinh", "cosh", "erf", "erfc")
TRIGONOMETRIC = ("sin", "cos", "tan", "atan")
POWERS = ("sqrt", "rsqrt", "cbrt", "square", "integer_pow", "pow")
KINKED = ("abs", "max", "min", "select_n", "custom_jvp_call")  # jax.nn.relu is a custom_jvp_call
NONLINEAR = EXPONENTIAL + TRIGONOMETRIC + POWERS + KINKED
ACTIVATIONS = ("tanh", "logistic", "max", "custom_jvp_call")  # single operations whose slope people write from memory
# Slopes as people write them, in terms of the function's value; they may be another function's, or be given its input.
FORMULAS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "1 - y^2": lambda y: 1 - y * y,
    "y (1 - y)": lambda y: y * (1 - y),
    "1 - y": lambda y: 1 - y,
    "y": lambda y: y,
    "1 if y > 0": lambda y: (y > 0).astype(y.dtype),
}
INPUT, OUTPUT = "y the input", "y the output"
OWNERS = {"1 - y^2": " (that of a tanh)", "y (1 - y)": " (that of a sigmoid)", "1 if y > 0": " (that of a ReLU)"}
BY_INPUT: dict[str, Callable[[jax.Array], jax.Array]] = {
    "of a sigmoid": lambda z: jax.nn.sigmoid(z) * (1 - jax.nn.sigmoid(z)),
    "of a tanh": lambda z: 1 - jnp.tanh(z) ** 2,
}
SQUARE = 256  # a Jacobian is looked at up to so many rows
SMALL = 1e-2  # a constant up to here that is added is there for safety


def slopes(site: Site) -> Iterator[Mistake]:
    """The mistakes in a function's derivative, entry by entry or row by row."""
    if not site.piece.couples or any(op.name in NONLINEAR for op in site.piece.ops):
        yield Cause.DERIVATIVE, "the derivative is left out of", site.passed_on()
    if site.piece.kind == "select_n":
        return
    varying = [i for i, c in enumerate(site.cts) if c is not None and c.shape == site.out.shape]
    if not varying:
        return
    first = varying[0]

    def taken_at(z: jax.Array) -> list:
        """Every derivative at z."""
        moved = lambda i: [*site.inputs[:i], z, *site.inputs[i + 1 :]]
        return [site.back(site.ct, moved(i))[i] if i in varying else c for i, c in enumerate(site.cts)]

    yield Cause.POINT, "the derivative is taken at the output instead of the input of", taken_at(site.out)
    for theirs, place in zip(site.neighbours.same_kind, site.neighbours.places, strict=True):
        yield Cause.MASK, f"the derivative is taken at the input of {place} instead of that of", taken_at(theirs)
    if len(varying) > 1:
        return
    twice = site.back(site.cts[first])[first] if site.piece.couples else _slope(site, first) * site.cts[first]
    yield Cause.SLOPE, "the derivative is applied twice in", site.with_one(first, twice)
    yield from _by_rows(site) if site.piece.couples else _by_entries(site, first)
    yield from _other_numbers(site)


def _slope(site: Site, i: int) -> jax.Array:
    """The derivative of every entry of the output by the same entry of input i."""
    return site.back(jnp.ones_like(site.ct))[i]


def _by_entries(site: Site, i: int) -> Iterator[Mistake]:
    """Slopes by a formula: another function's, or the right one at the wrong point."""
    if len(site.piece.ops) == 1 and site.piece.last.name not in ACTIVATIONS:
        return
    for words, formula in FORMULAS.items():
        owner = OWNERS.get(words, "")
        for y, what in ((site.out, OUTPUT), (site.inputs[i], INPUT)):
            yield Cause.SLOPE, f"the slope {words}, {what}{owner}, is taken of", site.with_one(i, site.ct * formula(y))
    for words, formula in BY_INPUT.items():
        yield Cause.SLOPE, f"the slope {words} stands for that of", site.with_one(i, site.ct * formula(site.inputs[i]))
    if site.ct.ndim == 2 and site.ct.shape[0] == site.ct.shape[1]:
        wrong = site.ct @ _slope(site, i)
        yield Cause.OPERAND, "a matrix product with the slope stands for the one by entries in", site.with_one(i, wrong)


def _by_rows(site: Site) -> Iterator[Mistake]:
    """A softmax, a norm: each output of a row depends on every input of it."""
    x, *others = site.inputs
    run = lambda x: site.piece.run(x, *others)
    if x.size <= SQUARE and not any(jax.typeof(x).sharding.spec):  # JAX refuses vmap over explicit shardings here
        columns = jnp.eye(x.size).reshape(x.size, *x.shape)
        diagonal = jax.vmap(lambda v: jnp.sum(v * jax.jvp(run, (x,), (v,))[1]))(columns).reshape(x.shape)
        yield Cause.JACOBIAN, "only the diagonal of the Jacobian is used of", site.with_one(0, site.ct * diagonal)
        text = "the diagonal of the Jacobian is applied on top of the right derivative of"
        yield Cause.SLOPE, text, site.with_one(0, site.cts[0] * diagonal)


def _other_numbers(site: Site) -> Iterator[Mistake]:
    """The derivative of nearly the same function: without its epsilon, with N - 1 for N."""
    for i, number in _numbers(site.piece):
        op = site.piece.ops[i]
        other = {}
        if op.name in ("add", "sub", "max") and 0 < number <= SMALL:
            other = {"the epsilon is forgotten in": 0.0 * number}
        elif op.name == "div" and number == round(number) and number > 2 and site.piece.couples:
            other = {
                f"N - 1 stands for N: {number - 1:g} for {number:g}, in": number - 1,
                f"N stands for N - 1: {number + 1:g} for {number:g}, in": number + 1,
            }
        for words, new in other.items():
            run = lambda *inputs, i=i, new=new: site.piece.run(*inputs, changed={i: np.asarray(new)})
            wrong = jax.vjp(run, *site.inputs)[1](site.ct)
            yield Cause.FACTOR, words, [None if c is None else w for c, w in zip(site.cts, wrong, strict=True)]


def _numbers(piece: Piece) -> Iterator[tuple[int, float]]:
    """The numbers that stand in a piece, by the operation that reads them."""
    for i, op in enumerate(piece.ops):
        for ref in op.inputs:
            if isinstance(ref, Literal) and np.ndim(ref.val) == 0:
                yield i, float(ref.val)


def misplaced(site: Site) -> Iterator[Mistake]:
    """The slope of an activation that is not there."""
    for words, formula in FORMULAS.items():
        wrong = [
            None if c is None else w for c, w in zip(site.cts, site.back(site.ct * formula(site.out)), strict=True)
        ]
        yield Cause.SLOPE, f"the slope {words} is applied where no activation is, at", wrong
