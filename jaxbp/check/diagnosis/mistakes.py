"""What can be wrong in the reverse rule of one operation: each mistake with the cotangents that it gives.

Every function here takes a `Site` and yields (cause, words, wrong cotangents of the inputs). A kind of operation is one
entry of `MISTAKES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from jaxbp.check.diagnosis.jaxprs import bind
from jaxbp.check.report import Cause
from jaxbp.core import register

Mistake = tuple[Cause, str, list]
EXPONENTIAL = ("tanh", "logistic", "exp", "exp2", "expm1", "log", "log1p", "sinh", "cosh", "erf", "erfc")
TRIGONOMETRIC = ("sin", "cos", "tan", "atan")
POWERS = ("sqrt", "rsqrt", "cbrt", "square", "integer_pow")
KINKED = ("abs", "max", "min", "select_n", "custom_jvp_call")  # jax.nn.relu is a custom_jvp_call
NONLINEAR = EXPONENTIAL + TRIGONOMETRIC + POWERS + KINKED
# Derivatives that are written in terms of the function's value: they may be given its input instead.
BY_VALUE = {
    "tanh": lambda y: 1 - y * y,
    "logistic": lambda y: y * (1 - y),
    "exp": lambda y: y,
    "sqrt": lambda y: 0.5 / y,
}
# The other steps of a loop whose activations a product may meet by mistake, as `Neighbours.steps` has them.
STEPS = ("before (the first meets the last)", "before", "after", "after (the last meets zeros)")


@partial(register, data_fields=["same_kind", "steps"], meta_fields=["places"])
@dataclass(frozen=True)
class Neighbours:
    """What a wrong rule may read instead of its own inputs."""

    same_kind: tuple[list, ...] = ()  # the inputs of every other operation of the same kind
    places: tuple[str, ...] = ()  # where those stand in the forward pass
    steps: tuple[list, ...] = ()  # for a product in a loop: its inputs at each of STEPS


@dataclass(frozen=True)
class Site:
    """One operation in the backward pass."""

    eqn: JaxprEqn
    inputs: list
    neighbours: Neighbours
    out: jax.Array
    ct: jax.Array  # the cotangent of the output
    cts: list  # the right cotangents of the inputs, None for integers

    def back(self, ct: jax.Array, inputs: list | None = None) -> tuple:
        """The right rule on another cotangent, or at other inputs."""
        run = lambda *inputs: bind(self.eqn, *inputs)[0]
        return jax.vjp(run, *(self.inputs if inputs is None else inputs))[1](ct)

    def passed_on(self) -> list:
        """The cotangent of the output for every input of its shape."""
        return [self.ct if c is not None and c.shape == self.ct.shape else c for c in self.cts]

    def with_one(self, i: int, wrong: Any) -> list:
        """The right cotangents but for input i."""
        return [wrong if j == i else c for j, c in enumerate(self.cts)]


def _nonlinear(site: Site) -> Iterator[Mistake]:
    yield Cause.DERIVATIVE, "the derivative is left out of", site.passed_on()
    name = site.eqn.primitive.name
    if name == "select_n":
        return
    nonlinear = [i for i, c in enumerate(site.cts) if c is not None and c.shape == site.out.shape]

    def taken_at(z: jax.Array) -> list:
        """Every derivative at z."""
        moved = lambda i: [*site.inputs[:i], z, *site.inputs[i + 1 :]]
        return [site.back(site.ct, moved(i))[i] if i in nonlinear else c for i, c in enumerate(site.cts)]

    yield Cause.POINT, "the derivative is taken at the output instead of the input of", taken_at(site.out)
    if name in BY_VALUE:
        wrong = [site.ct * BY_VALUE[name](site.inputs[0])]
        yield Cause.POINT, "the derivative, a formula in the output, is given the input of", wrong
    for theirs, place in zip(site.neighbours.same_kind, site.neighbours.places, strict=True):
        if list(map(jnp.shape, theirs)) == list(map(jnp.shape, site.inputs)):
            text = f"the derivative is taken at the input of {place} instead of that of"
            yield Cause.MASK, text, taken_at(theirs[nonlinear[0]])


def _scaled(site: Site) -> Iterator[Mistake]:
    if any(jnp.ndim(x) == 0 for x in site.inputs):
        yield Cause.FACTOR, "the factor is left out of", site.passed_on()


def _product(site: Site) -> Iterator[Mistake]:
    def meeting(i: int, partner: jax.Array) -> list:
        """Factor i's cotangent is taken with another partner."""
        inputs = [partner, partner]
        inputs[i] = site.inputs[i]
        return site.with_one(i, site.back(site.ct, inputs)[i])

    for i, name in ((0, "left"), (1, "right")):
        partner = site.inputs[1 - i]
        if partner.ndim == 2 and partner.shape[0] == partner.shape[1]:
            text = f"the other factor is transposed in the {name} derivative of"
            yield Cause.TRANSPOSED, text, meeting(i, partner.T)
        for inputs, words in zip(site.neighbours.steps, STEPS, strict=False):
            yield Cause.SHIFTED, f"the {name} derivative meets the step {words} in", meeting(i, inputs[1 - i])
    yield from _rows(site)


def _convolution(site: Site) -> Iterator[Mistake]:
    x, w = site.inputs
    space = site.eqn.params["dimension_numbers"].rhs_spec[2:]
    wrong = site.back(site.ct, [x, jnp.flip(w, space)])[0]
    yield Cause.FLIPPED, "the kernel is not flipped in the input derivative of", site.with_one(0, wrong)
    yield from _rows(site)


def _rows(site: Site) -> Iterator[Mistake]:
    """Sums over the output's leading axes that miss their end, or keep only it."""
    ct = site.ct
    for axis in range(min(ct.ndim, 2)):
        at_end = (jnp.arange(ct.shape[axis]) == ct.shape[axis] - 1).reshape(-1, *[1] * (ct.ndim - axis - 1))
        missing = Cause.DROPPED if axis == 0 else Cause.LAST_STEP
        for mask, cause, words in (
            (at_end, missing, "the last entry is left out of"),
            (~at_end, Cause.OVERWRITTEN, "only the last entry counts in"),
        ):
            for i, wrong in enumerate(site.back(jnp.where(mask, 0, ct))):
                if site.cts[i] is not None:
                    yield cause, f"{words} the sum over axis {axis}, operand {i} of", site.with_one(i, wrong)


def _added(site: Site) -> Iterator[Mistake]:
    """A sum that spreads one of its terms, such as a bias, over the other's rows."""
    spread = [jnp.shape(x) != site.out.shape for x in site.inputs]
    for cause, text, wrong in _rows(site) if any(spread) else ():
        yield cause, text, [w if is_spread else c for w, c, is_spread in zip(wrong, site.cts, spread, strict=True)]


def _broadcast(site: Site) -> Iterator[Mistake]:
    if not site.inputs or site.cts[0] is None:
        return
    if site.inputs[0].ndim == 1:
        n = site.inputs[0].size
        right = site.eqn.params["broadcast_dimensions"][-1]
        for axis in range(site.out.ndim):
            if axis != right and site.out.shape[axis] == n:
                wrong = site.ct.sum([a for a in range(site.out.ndim) if a != axis])
                yield Cause.AXES, f"axis {axis} is kept instead of axis {right} in", [wrong]
    yield from _rows(site)


def _gather(site: Site) -> Iterator[Mistake]:
    x, *indices = site.inputs
    source = bind(site.eqn, jnp.arange(x.size).reshape(x.shape), *indices)[0].reshape(-1)
    order = jnp.arange(len(source))
    final = jnp.full(x.size, -1).at[source].max(order)[source] == order
    wrong = site.back(jnp.where(final.reshape(site.ct.shape), site.ct, 0))[0]
    yield Cause.OVERWRITTEN, "a repeated index overwrites what it should add to in", site.with_one(0, wrong)


MISTAKES: dict[str, Callable[[Site], Iterator[Mistake]]] = {
    **dict.fromkeys(NONLINEAR, _nonlinear),
    "mul": _scaled,
    "add": _added,
    "sub": _added,
    "div": _scaled,
    "dot_general": _product,
    "conv_general_dilated": _convolution,
    "broadcast_in_dim": _broadcast,
    "gather": _gather,
}
