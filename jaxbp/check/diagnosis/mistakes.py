"""What can be wrong in the reverse rule of one piece of a program: each mistake with the cotangents that it gives.

Every function here takes a `Site` and yields (cause, words, wrong cotangents of the inputs). A kind of operation is one
entry of `MISTAKES`; what functions of one value share, written out or not, is in `slopes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Literal

from jaxbp.check.diagnosis.flow import Piece
from jaxbp.check.diagnosis.neighbours import Neighbours
from jaxbp.check.report import Cause

Mistake = tuple[Cause, str, list]


@dataclass(frozen=True)
class Site:
    """One piece in the backward pass."""

    piece: Piece
    inputs: list
    neighbours: Neighbours
    out: jax.Array
    ct: jax.Array  # the cotangent of the output
    cts: list  # the right cotangents of the inputs, None for integers

    @property
    def eqn(self) -> JaxprEqn:
        """The operation, of a piece that is one."""
        return self.piece.last.eqn

    def back(self, ct: jax.Array, inputs: list | None = None) -> tuple:
        """The right rule on another cotangent, or at other inputs."""
        return jax.vjp(self.piece.run, *(self.inputs if inputs is None else inputs))[1](ct)

    def passed_on(self) -> list:
        """The cotangent of the output for every input of its shape."""
        return [self.ct if c is not None and c.shape == self.ct.shape else c for c in self.cts]

    def with_one(self, i: int, wrong: Any) -> list:
        """The right cotangents but for input i."""
        return [wrong if j == i else c for j, c in enumerate(self.cts)]

    def number(self) -> float | None:
        """The number by which an operation multiplies or divides."""
        numbers = [float(v.val) for v in self.eqn.invars if isinstance(v, Literal) and np.ndim(v.val) == 0]
        return numbers[0] if numbers else None


def _multiplied(site: Site) -> Iterator[Mistake]:
    """A product entry by entry: a gate, a mask, a scale."""
    a, b = site.inputs if len(site.inputs) == 2 else (site.inputs[0], None)
    if b is None:
        yield Cause.FACTOR, "the factor is left out of", site.passed_on()
        yield from _wrong_number(site)
        return
    for i, partner in ((0, b), (1, a)):
        if site.cts[i] is None or site.cts[i].shape != site.ct.shape:
            continue
        yield Cause.FACTOR, f"factor {1 - i} is left out of the derivative by factor {i} of", site.with_one(i, site.ct)
        if site.cts[1 - i] is None or not partner.ndim:
            continue
        yield (
            Cause.OPERAND,
            f"factor {i} meets itself instead of factor {1 - i} in",
            site.with_one(i, site.ct * (a, b)[i]),
        )
        kept = jnp.where(partner != 0, site.ct, 0)
        yield Cause.FACTOR, f"factor {1 - i} keeps its zeros and loses its scale in", site.with_one(i, kept)


def _divided(site: Site) -> Iterator[Mistake]:
    if site.cts[0] is not None:
        yield Cause.FACTOR, "the divisor is left out of", site.with_one(0, site.ct)
    if len(site.inputs) == 2 and site.cts[1] is not None:
        b = site.inputs[1]
        yield Cause.SIGN, "the minus of the derivative by the divisor is left out of", site.with_one(1, -site.cts[1])
        if b.shape == site.ct.shape:
            yield (
                Cause.FACTOR,
                "the divisor is not squared in the derivative by it of",
                site.with_one(1, site.cts[1] * b),
            )
    yield from _wrong_number(site)


def _wrong_number(site: Site) -> Iterator[Mistake]:
    """A scale that is used twice, and a count that is one too large or too small."""
    n = site.number()
    if n is None or site.cts[0] is None or n == 0:
        return
    times = lambda c: [None if ct is None else c * ct for ct in site.cts]
    divides = site.piece.last.name == "div"
    yield Cause.FACTOR, f"the factor {n:.6g} is applied twice in", times(1 / n if divides else n)
    if divides and n == round(n) > 2:
        yield Cause.FACTOR, f"N - 1 stands for N: {n - 1:g} for {n:g}, in", times(n / (n - 1))
        yield Cause.FACTOR, f"N stands for N - 1: {n + 1:g} for {n:g}, in", times(n / (n + 1))


def _subtracted(site: Site) -> Iterator[Mistake]:
    last = len(site.cts) - 1
    if site.cts[last] is not None:
        yield Cause.SIGN, "the minus is left out of", site.with_one(last, -site.cts[last])
    if last:
        yield from _added(site)


def _product(site: Site) -> Iterator[Mistake]:
    def meeting(i: int, partner: jax.Array) -> list:
        """Factor i's cotangent is taken with another partner."""
        inputs = [partner, partner]
        inputs[i] = site.inputs[i]
        return site.with_one(i, site.back(site.ct, inputs)[i])

    square = lambda a: a.ndim >= 2 and a.shape[-1] == a.shape[-2]
    for i, name in ((0, "left"), (1, "right")) if len(site.inputs) == 2 else ():
        if site.cts[i] is None:
            continue
        partner = site.inputs[1 - i]
        if square(partner):
            text = f"the other factor is transposed in the {name} derivative of"
            yield Cause.TRANSPOSED, text, meeting(i, partner.swapaxes(-1, -2))
        if square(site.ct):
            wrong = site.back(site.ct.swapaxes(-1, -2))[i]
            yield Cause.TRANSPOSED, f"the delta is transposed in the {name} derivative of", site.with_one(i, wrong)
    yield from partners(site)
    yield from _rows(site)
    yield from _ends(site)


def _ends(site: Site) -> Iterator[Mistake]:
    """A product with many axes, of which one is not summed over: its first entry alone counts, or its last."""
    ct = site.ct
    for axis in range(ct.ndim) if ct.ndim > 3 else ():
        place = jnp.arange(ct.shape[axis]).reshape(-1, *[1] * (ct.ndim - axis - 1))
        for end, name in ((0, "first"), (ct.shape[axis] - 1, "last")):
            for i, wrong in enumerate(site.back(jnp.where(place == end, ct, 0))):
                if site.cts[i] is not None and ct.shape[axis] > 1:
                    words = (
                        f"only the {name} entry of axis {axis} is summed (a group's sum is left out), operand {i} of"
                    )
                    yield Cause.AXES, words, site.with_one(i, wrong)


def partners(site: Site) -> Iterator[Mistake]:
    """A product, entry by entry or of matrices, in which something else stands for one of the factors."""
    for (k, cause, words), partner in zip(site.neighbours.roles, site.neighbours.partners, strict=True):
        if partner.shape == site.inputs[k].shape and site.cts[1 - k] is not None:
            inputs = [*site.inputs]
            inputs[k] = partner
            yield cause, words, site.with_one(1 - k, site.back(site.ct, inputs)[1 - k])


def _window(site: Site) -> Iterator[Mistake]:
    """A slice of an array, such as the windows of a convolution and the gates of a cell."""
    x, neighbours = site.inputs[0], site.neighbours
    for cause, words, start in neighbours.starts:
        yield cause, words, [jax.lax.dynamic_update_slice(jnp.zeros_like(x), site.ct, start)]
    if neighbours.covered is not None:
        words = "where windows overlap, a later one is assigned (it overwrites the sum) in"
        yield Cause.OVERWRITTEN, words, list(site.back(jnp.where(neighbours.covered, 0, site.ct)))


def _convolution(site: Site) -> Iterator[Mistake]:
    x, w = site.inputs[0], site.inputs[-1]
    space = site.eqn.params["dimension_numbers"].rhs_spec[2:]
    wrong = site.back(site.ct, [x, jnp.flip(w, space)])[0]
    yield Cause.FLIPPED, "the kernel is not flipped in the input derivative of", site.with_one(0, wrong)
    yield from _rows(site)


def _rows(site: Site) -> Iterator[Mistake]:
    """Sums over the output's leading axes that miss their end, or keep only it."""
    ct = site.ct
    for axis in range(min(ct.ndim, 2)):
        if ct.shape[axis] < 2:
            continue
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


def _summed(site: Site) -> Iterator[Mistake]:
    """A sum over axes, of which only one end counts, or all but one."""
    shape = site.inputs[0].shape
    for axis in site.eqn.params["axes"][:2]:
        if shape[axis] < 2:
            continue
        place = jnp.arange(shape[axis]).reshape(-1, *[1] * (len(shape) - axis - 1))
        for end, name in ((0, "first"), (shape[axis] - 1, "last")):
            words = f"only the {name} entry of axis {axis} counts in"
            yield Cause.OVERWRITTEN, words, [jnp.where(place == end, site.cts[0], 0)]
            words = f"the {name} entry of axis {axis} is left out of"
            yield Cause.DROPPED, words, [jnp.where(place == end, 0, site.cts[0])]


def _largest(site: Site) -> Iterator[Mistake]:
    """A maximum over axes, whose delta goes to the largest entries alone."""
    x = site.inputs[0]
    spread = jnp.broadcast_to(jnp.expand_dims(site.ct, site.eqn.params["axes"]), x.shape)
    yield Cause.AXES, "every entry gets the delta of the largest one in", [spread]
    yield Cause.AXES, "a mean's derivative stands for a maximum's in", [spread * (site.ct.size / x.size)]


def _gather(site: Site) -> Iterator[Mistake]:
    x, *indices = site.inputs
    numbers = site.piece.run(jnp.arange(x.size, dtype=x.dtype).reshape(x.shape), *indices).reshape(-1)
    source = jnp.nan_to_num(numbers).astype(int)  # an index out of bounds may be read as nan
    order = jnp.arange(len(source))
    final = jnp.full(x.size, -1).at[source].max(order)[source] == order
    wrong = site.back(jnp.where(final.reshape(site.ct.shape), site.ct, 0))[0]
    yield Cause.OVERWRITTEN, "a repeated index overwrites what it should add to in", site.with_one(0, wrong)


MISTAKES: dict[str, Callable[[Site], Iterator[Mistake]]] = {
    "mul": _multiplied,
    "div": _divided,
    "add": _added,
    "sub": _subtracted,
    "neg": _subtracted,
    "dot_general": _product,
    "conv_general_dilated": _convolution,
    "broadcast_in_dim": _broadcast,
    "reduce_sum": _summed,
    "reduce_max": _largest,
    "reduce_min": _largest,
    "gather": _gather,
    "slice": _window,
}
