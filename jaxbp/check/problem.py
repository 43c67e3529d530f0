"""The one shape that every check takes: a hand-written derivative, and the function that it claims to differentiate.

Whatever was given (a gradient function and a loss, a function with a custom_vjp, a layer, a model with its loss)
becomes a `Problem` over a flat dict of float64 leaves: `forward(leaves) -> outputs` and `pullback(leaves, dy) ->
like leaves`. What the user gave and cannot be used ends here, in one line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.backprop import value_and_grad
from jaxbp.check.diagnosis.jaxprs import undecorated
from jaxbp.check.leaves import Leaves, aligned, batch_size, cotangent, counts, dtypes_of, in_dtype, is_float, split
from jaxbp.check.truth import autodiff
from jaxbp.core import Context, Layer, PyTree, label, leaf_layers, path_name
from jaxbp.errors import InputError


@dataclass(frozen=True)
class Problem:
    """A derivative to be judged.

    forward(leaves) -> output tree; pullback(leaves, dy) -> {path: the hand-written derivative of <dy, forward>},
    None for a missing leaf. variant(change, dtype) is the same problem with change(batch) for its batch and in
    another precision.
    """

    name: str
    forward: Callable[[Leaves], PyTree]
    pullback: Callable[[Leaves, PyTree], dict[str, jax.Array | None]]
    leaves: Leaves
    dy: PyTree
    dtypes: dict[str, str]  # what the user's leaves had
    variant: Callable[[Callable[[PyTree], PyTree], Any], Problem]
    size: int | None = None  # examples in the batch; None where the batch axis is not known
    differentiable: bool = True  # JAX can differentiate forward
    differences_decide: bool = False  # where autodiff of forward and central differences are not of one mind
    traceable: bool = True  # the hand-written part can run under jit
    decorated: Callable[[Leaves], PyTree] | None = None  # what carries the rule, where that is not forward
    by_row: bool = False  # the output has the batch axis first, and no row sees another
    layer: Layer | None = None
    setting: tuple = ()  # the layer's (params, x, ctx)
    delta: Callable[[], tuple[PyTree, PyTree]] | None = None  # the loss's dy, hand-written and true
    counts: tuple[tuple[str, float], ...] = ()  # named numbers that a wrong factor may be


def gradient_problem(
    gradient: Callable, loss: Callable, params: PyTree, *batch: PyTree, dtype: Any = np.float64
) -> Problem:
    """gradient(params, *batch) -> like params, said to be the derivative of the scalar loss(params, *batch)."""
    dtypes, (params, batch) = dtypes_of(params), in_dtype((params, batch), dtype)
    leaves, rebuild = split(params, "parameters")
    size = batch_size(batch)

    def forward(leaves: Leaves) -> jax.Array:
        value = loss(rebuild(leaves), *batch)
        if not jax.tree.leaves(value) or np.shape(value) != () or not is_float(jnp.asarray(value)):
            what = f"{_shapes(value)} of {jax.tree.leaves(value)[0].dtype}" if hasattr(value, "dtype") else repr(value)
            raise InputError(f"the loss must be a scalar of a floating type: {name_of(loss)} returned {what}")
        return value

    def pullback(leaves: Leaves, dy: jax.Array) -> dict[str, jax.Array | None]:
        found = aligned(gradient(rebuild(leaves), *batch), leaves, name_of(gradient), params)
        return {path: None if g is None else dy * g for path, g in found.items()}

    differentiable = runs(forward, leaves, name_of(loss))
    traceable = runs(lambda leaves: pullback(leaves, jnp.ones((), dtype)), leaves, name_of(gradient))
    variant = lambda change, dtype: gradient_problem(gradient, loss, params, *change(batch), dtype=dtype)
    return Problem(
        name_of(gradient),
        forward,
        pullback,
        leaves,
        jnp.ones((), dtype),
        dtypes,
        variant,
        size,
        differentiable=differentiable,
        traceable=traceable,
        counts=counts(size, batch, (), leaves),
    )


def function_problem(
    function: Callable, *arguments: PyTree, reference: Callable | None = None, dtype: Any = np.float64
) -> Problem:
    """function(*arguments) with a jax.custom_vjp or custom_jvp, against the plain `reference` of the same forward.

    Without a reference, the function itself with its custom rules taken off is what JAX differentiates.
    """
    dtypes, arguments = dtypes_of(_named(function, arguments)), in_dtype(arguments, dtype)
    named = _named(function, arguments)
    leaves, rebuild = split(named, "arguments")

    def call(f: Callable, leaves: Leaves) -> PyTree:
        given = rebuild(leaves)
        return jax.tree.map(lambda a: a.astype(dtype), _floating(f(*(given[name] for name in named))))

    decorated = lambda leaves: call(function, leaves)
    runs(decorated, leaves, name_of(function), needed=True)
    y = jax.eval_shape(decorated, leaves)
    if not y:
        raise InputError(f"{name_of(function)} returns nothing floating: there is nothing to differentiate")
    forward = undecorated(decorated)
    if reference:
        forward = lambda leaves: call(reference, leaves)
        wanted = jax.eval_shape(forward, leaves) if runs(forward, leaves, name_of(reference)) else forward(leaves)
        if jax.tree.map(jnp.shape, wanted) != jax.tree.map(jnp.shape, y):
            raise InputError(
                f"not the same forward: {name_of(function)} returns {_shapes(y)} and the reference "
                f"{name_of(reference)} {_shapes(wanted)}"
            )
    pullback = lambda leaves, dy: jax.vjp(decorated, leaves)[1](dy)[0]
    dy = cotangent(y, dtype)
    runs(lambda leaves: pullback(leaves, dy), leaves, f"the derivative of {name_of(function)}", needed=True)
    variant = lambda change, dtype: function_problem(function, *change(arguments), reference=reference, dtype=dtype)
    return Problem(
        name_of(function),
        forward,
        pullback,
        leaves,
        dy,
        dtypes,
        variant,
        differentiable=_differentiable(forward, leaves, dy),
        differences_decide=reference is None,
        decorated=decorated,
        counts=counts(None, arguments, y, leaves),
    )


def layer_problem(layer: Layer, params: PyTree, x: PyTree, ctx: Context, dtype: Any = np.float64) -> Problem:
    """A layer's backward against its own forward: leaves `grads/...` and, for floating inputs, `dx`."""
    dtypes, (params, x, ctx) = dtypes_of({"grads": params, "dx": x}), in_dtype((params, x, ctx), dtype)
    leaves, rebuild = split({"grads": params, "dx": x}, "layer's parameters and inputs")
    parts = lambda leaves: rebuild(leaves).values()

    def forward(leaves: Leaves) -> PyTree:
        x, params = parts(leaves)
        return layer.forward(params, x, ctx)[0]

    def pullback(leaves: Leaves, dy: PyTree) -> dict[str, jax.Array | None]:
        x, params = parts(leaves)
        dx, grads = layer.backward(params, layer.forward(params, x, ctx)[1], dy)
        return aligned({"grads": grads, "dx": dx}, leaves, label(layer), {"grads": params, "dx": x})

    runs(forward, leaves, label(layer), needed=True)
    y = jax.eval_shape(forward, leaves)
    runs(lambda leaves: pullback(leaves, cotangent(y, dtype)), leaves, f"{label(layer)}.backward", needed=True)
    variant = lambda change, dtype: layer_problem(layer, params, change(x), ctx, dtype)
    size = len(jax.tree.leaves(x)[0])
    return Problem(
        label(layer),
        forward,
        pullback,
        leaves,
        cotangent(y, dtype),
        dtypes,
        variant,
        size,
        by_row=not any(leaf.couples_batch for leaf in leaf_layers(layer)),
        layer=layer,
        setting=(params, x, ctx),
        counts=counts(size, x, y, leaves),
    )


def model_problem(
    model: Layer,
    loss: Any,
    params: PyTree,
    batch: PyTree,
    ctx: Context,
    penalties: Sequence[Any] = (),
    dtype: Any = np.float64,
) -> Problem:
    """value_and_grad(model, loss, penalties) against jax.grad of the same forward passes."""
    dtypes, (params, batch, ctx) = dtypes_of(params), in_dtype((params, batch, ctx), dtype)
    leaves, rebuild = split(params, "parameters")
    hand, auto = value_and_grad(model, loss, penalties), autodiff(model, loss, penalties)
    forward = lambda leaves: auto(rebuild(leaves), batch, ctx).value

    def pullback(leaves: Leaves, dy: jax.Array) -> dict[str, jax.Array | None]:
        found = aligned(hand(rebuild(leaves), batch, ctx).grads, leaves, label(model), params)
        return {path: None if g is None else dy * g for path, g in found.items()}

    runs(forward, leaves, label(model), needed=True)
    runs(lambda leaves: pullback(leaves, jnp.ones((), dtype)), leaves, f"{label(model)}.backward", needed=True)

    def delta() -> tuple[PyTree, PyTree]:
        y = model.forward(params, batch["x"], ctx)[0]
        value = lambda y: loss.forward(y, batch["y"], batch["weight"])[0]
        return loss.backward(loss.forward(y, batch["y"], batch["weight"])[1]), jax.grad(value)(y)

    variant = lambda change, dtype: model_problem(model, loss, params, change(batch), ctx, penalties, dtype)
    return Problem(
        label(model),
        forward,
        pullback,
        leaves,
        jnp.ones((), dtype),
        dtypes,
        variant,
        len(batch["weight"]),
        layer=model,
        setting=(params, batch["x"], ctx),
        delta=delta,
        counts=counts(len(batch["weight"]), batch["x"], (), leaves),
    )


def name_of(function: Callable) -> str:
    """How messages call a function."""
    return getattr(function, "__name__", None) or type(function).__name__


def _floating(y: PyTree) -> PyTree:
    """The floating outputs of a function, by path: the others have no cotangent."""
    flat = {path_name(path): a for path, a in jax.tree_util.tree_flatten_with_path(y)[0]}
    return {path: jnp.asarray(a) for path, a in flat.items() if is_float(a)}


def runs(call: Callable, leaves: Leaves, who: str, needed: bool = False) -> bool:
    """Whether `call` can be traced; if it fails without tracing too, or `needed`, its error in one line."""
    try:
        jax.eval_shape(call, leaves)
        return True
    except InputError as error:
        raise InputError(str(error)) from None
    except jax.errors.JAXTypeError as error:  # it wants numbers, not tracers: NumPy code
        if needed:
            raise InputError(f"{who} cannot be traced by JAX: {_first_line(error)}") from None
    except Exception as error:
        raise InputError(f"{who} raised {type(error).__name__}: {_first_line(error)}") from None
    try:
        call(leaves)
    except InputError as error:
        raise InputError(str(error)) from None
    except Exception as error:
        raise InputError(f"{who} raised {type(error).__name__}: {_first_line(error)}") from None
    return False


def _differentiable(forward: Callable, leaves: Leaves, dy: PyTree) -> bool:
    """Whether JAX has a reverse mode for it: NumPy code, a while loop and some special functions have none."""
    try:
        jax.eval_shape(lambda leaves: jax.vjp(forward, leaves)[1](dy), leaves)
    except (NotImplementedError, TypeError, ValueError, jax.errors.JAXTypeError):
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["(no message)"])[0]


def _named(function: Callable, arguments: tuple) -> dict[str, PyTree]:
    """The arguments by the names that the function gives them."""
    try:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [p.name for p in inspect.signature(function).parameters.values() if p.kind in kinds]
    except (TypeError, ValueError):
        names = []
    names = names if len(names) >= len(arguments) else [f"argument{i}" for i in range(len(arguments))]
    return dict(zip(names, arguments, strict=False))


def _shapes(tree: PyTree) -> str:
    return ", ".join(str(tuple(a.shape)) for a in jax.tree.leaves(tree)) or "nothing floating"
