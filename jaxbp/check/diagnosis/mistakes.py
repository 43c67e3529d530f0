"""What can be wrong in the reverse rule of one operation: each mistake with the cotangents that it gives.

Every function here takes (operation, inputs, output, cotangent of the output, right cotangents of the inputs, inputs of
other operations, path) and yields (cause, words, wrong cotangents of the inputs). A kind of operation is one entry of
`MISTAKES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from jaxbp.check.diagnosis.jaxprs import bind
from jaxbp.check.report import Cause

Mistake = tuple[Cause, str, list]
BENT = (
    *(
        "tanh",
        "logistic",
        "exp",
        "exp2",
        "log",
        "log1p",
        "expm1",
        "sqrt",
        "rsqrt",
        "square",
        "integer_pow",
        "sin",
        "cos",
    ),
    *("tan", "abs", "erf", "erfc", "atan", "sinh", "cosh", "cbrt", "max", "min", "select_n", "custom_jvp_call"),
)
# Derivatives that are written in the function's value, and may meet the pre-activation instead.
BY_VALUE = {
    "tanh": lambda z: 1 - z * z,
    "logistic": lambda z: z * (1 - z),
    "exp": lambda z: z,
    "sqrt": lambda z: 0.5 / z,
}


def _bent(
    eqn: JaxprEqn, inputs: list, out: jax.Array, ct: jax.Array, cts: list, others: dict, path: str
) -> Iterator[Mistake]:
    through = [ct if c is not None and c.shape == ct.shape else c for c in cts]
    yield Cause.DERIVATIVE, "the derivative is left out of", through
    if eqn.primitive.name == "select_n":
        return
    taken = [i for i, c in enumerate(cts) if c is not None and c.shape == out.shape]
    at = lambda z: [c if i not in taken else _vjp_at(eqn, inputs, i, z, ct) for i, c in enumerate(cts)]
    yield Cause.POINT, "the derivative is taken at the output instead of the input of", at(out)
    if eqn.primitive.name in BY_VALUE:
        by_value = [ct * BY_VALUE[eqn.primitive.name](inputs[0])]
        yield Cause.POINT, "the derivative is written in the output and given the input of", by_value
    for other, theirs in others.items():
        if (
            not other.endswith("~")
            and len(theirs) == len(inputs)
            and list(map(jnp.shape, theirs)) == list(map(jnp.shape, inputs))
        ):
            yield (
                Cause.MASK,
                f"the derivative is taken at the input of <{other}> instead of that of",
                at(theirs[taken[0]]),
            )


def _vjp_at(eqn: JaxprEqn, inputs: list, i: int, z: jax.Array, ct: jax.Array) -> jax.Array:
    run = lambda z: bind(eqn, *inputs[:i], z, *inputs[i + 1 :])[0]
    return jax.vjp(run, z)[1](ct)[0]


def _scaled(
    eqn: JaxprEqn, inputs: list, out: jax.Array, ct: jax.Array, cts: list, others: dict, path: str
) -> Iterator[Mistake]:
    if any(jnp.ndim(x) == 0 for x in inputs):
        yield (
            Cause.FACTOR,
            "the factor is left out of",
            [ct if c is not None and c.shape == ct.shape else c for c in cts],
        )


def _product(
    eqn: JaxprEqn, inputs: list, out: jax.Array, ct: jax.Array, cts: list, others: dict, path: str
) -> Iterator[Mistake]:
    for i, name in ((0, "left"), (1, "right")):
        other = inputs[1 - i]
        if other.ndim == 2 and other.shape[0] == other.shape[1]:
            text = f"the other factor is transposed in the {name} derivative of"
            yield Cause.TRANSPOSED, text, _paired(eqn, inputs, ct, cts, i, other.T)
        if f"{path}~" in others:
            for near, words in zip(
                others[f"{path}~"][1 - i],
                ("before, the first the last", "before", "after", "after, the last none"),
                strict=True,
            ):
                text = f"the {name} derivative meets the step {words} in"
                yield Cause.SHIFTED, text, _paired(eqn, inputs, ct, cts, i, near)
    yield from _rows(eqn, inputs, out, ct, cts, others, path)


def _paired(eqn: JaxprEqn, inputs: list, ct: jax.Array, cts: list, i: int, other: jax.Array) -> list:
    """The right cotangents, but factor i's is taken with another partner."""
    pair = [other, other]
    pair[i] = inputs[i]
    wrong = jax.vjp(lambda *pair: bind(eqn, *pair)[0], *pair)[1](ct)[i]
    return [wrong if j == i else right for j, right in enumerate(cts)]


def _convolution(
    eqn: JaxprEqn, inputs: list, out: jax.Array, ct: jax.Array, cts: list, others: dict, path: str
) -> Iterator[Mistake]:
    space = eqn.params["dimension_numbers"].rhs_spec[2:]
    run = lambda *inputs: bind(eqn, *inputs)[0]
    flipped = jax.vjp(run, inputs[0], jnp.flip(inputs[1], space))[1](ct)[0]
    yield Cause.FLIPPED, "the kernel is not flipped in the input derivative of", [flipped, cts[1]]
    yield from _rows(eqn, inputs, out, ct, cts, others, path)


def _rows(
    eqn: JaxprEqn, inputs: list, out: jax.Array, ct: jax.Array, cts: list, others: dict, path: str
) -> Iterator[Mistake]:
    """Sums over the output's leading axes that miss their end, or keep only it."""
    back = jax.vjp(lambda *inputs: bind(eqn, *inputs)[0], *inputs)[1]
    for axis in range(min(ct.ndim, 2)):
        at_end = (jnp.arange(ct.shape[axis]) == ct.shape[axis] - 1).reshape(-1, *[1] * (ct.ndim - axis - 1))
        name = Cause.DROPPED if axis == 0 else Cause.LAST_STEP
        for mask, cause, words in (
            (at_end, name, "the last entry is left out of"),
            (~at_end, Cause.OVERWRITTEN, "only the last entry counts in"),
        ):
            wrong = back(jnp.where(mask, 0, ct))
            for i, c in enumerate(cts):
                if c is not None:
                    yield (
                        cause,
                        f"{words} the sum over axis {axis}, operand {i} of",
                        [w if i == j else d for j, (w, d) in enumerate(zip(wrong, cts, strict=True))],
                    )


def _added(
    eqn: JaxprEqn, inputs: list, out: jax.Array, ct: jax.Array, cts: list, others: dict, path: str
) -> Iterator[Mistake]:
    """A sum that spreads one of its terms, such as a bias, over the other's rows."""
    spread = [jnp.shape(x) != out.shape for x in inputs]
    for cause, text, wrong in _rows(eqn, inputs, out, ct, cts, others, path) if any(spread) else ():
        yield cause, text, [w if is_spread else c for w, c, is_spread in zip(wrong, cts, spread, strict=True)]


def _broadcast(
    eqn: JaxprEqn, inputs: list, out: jax.Array, ct: jax.Array, cts: list, others: dict, path: str
) -> Iterator[Mistake]:
    if not inputs or cts[0] is None:
        return
    here, n = eqn.params["broadcast_dimensions"][-1] if inputs[0].ndim == 1 else 0, inputs[0].size
    for axis in range(out.ndim if inputs[0].ndim == 1 else 0):
        if axis != here and out.shape[axis] == n:
            yield (
                Cause.AXES,
                f"axis {axis} is kept instead of axis {here} in",
                [ct.sum([a for a in range(out.ndim) if a != axis])],
            )
    yield from _rows(eqn, inputs, out, ct, cts, others, path)


def _gather(
    eqn: JaxprEqn, inputs: list, out: jax.Array, ct: jax.Array, cts: list, others: dict, path: str
) -> Iterator[Mistake]:
    size = inputs[0].size
    source = bind(eqn, jnp.arange(size).reshape(inputs[0].shape), *inputs[1:])[0].reshape(-1)
    place = jnp.arange(len(source))
    final = jnp.full(size, -1).at[source].max(place)[source] == place
    kept = jnp.where(final.reshape(ct.shape), ct, 0)
    wrong = jax.vjp(lambda a: bind(eqn, a, *inputs[1:])[0], inputs[0])[1](kept)[0]
    yield Cause.OVERWRITTEN, "a repeated index overwrites what it should add to in", [wrong, *cts[1:]]


MISTAKES: dict[str, Callable[..., Iterator[Mistake]]] = {
    **dict.fromkeys(BENT, _bent),
    "mul": _scaled,
    "add": _added,
    "sub": _added,
    "div": _scaled,
    "dot_general": _product,
    "conv_general_dilated": _convolution,
    "broadcast_in_dim": _broadcast,
    "gather": _gather,
}
