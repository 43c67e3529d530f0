"""The one shape that every check takes: a hand-written derivative, and the function that it claims to differentiate.

A gradient function with its loss, a function with a custom_vjp, a layer, a model with its loss: each becomes a
`Problem` over a flat dict of float64 leaves, with `forward(leaves) -> outputs` and `pullback(leaves, dy) -> like
leaves`. Input that cannot be checked is refused here, with an InputError of one line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.backprop import value_and_grad
from jaxbp.check.calls import name_of, named, suited, traced
from jaxbp.check.columns import by_columns, rules_of
from jaxbp.check.diagnosis.jaxprs import undecorated
from jaxbp.check.domain import Bounds
from jaxbp.check.leaves import (
    Counts,
    Gradient,
    Leaves,
    aligned,
    batch_size,
    by_part,
    cotangent,
    counts,
    dtypes_of,
    in_dtype,
    is_float,
    is_inexact,
    split,
)
from jaxbp.check.native import cast, own_dtypes, rounding
from jaxbp.check.report import Finding
from jaxbp.check.truth import objective
from jaxbp.core import Context, Layer, PyTree, label, leaf_layers, path_name
from jaxbp.errors import InputError

Pullback = Callable[[Leaves, PyTree], Gradient]


@dataclass(frozen=True)
class Problem:
    """A derivative to be judged.

    forward(leaves) -> output tree; pullback(leaves, dy) -> {path: the hand-written derivative of <dy, forward>},
    None for a missing leaf. variant(change, dtype) is the same problem with change(batch) for its batch and in
    another precision.
    """

    name: str
    forward: Callable[[Leaves], PyTree]
    pullback: Pullback
    leaves: Leaves
    dy: PyTree
    dtypes: dict[str, str]  # what the user's leaves had
    variant: Callable[[Callable[[PyTree], PyTree], Any], Problem]
    data: PyTree  # what goes in beside the parameters
    size: int | None = None  # examples in the batch; None where the batch axis is not known
    differentiable: bool = True  # JAX can differentiate forward
    on_numpy: bool = False  # JAX cannot trace forward
    own_reference: bool = False  # the function itself, its rules taken off, is what it is compared with
    traceable: bool = True  # the hand-written part can run under jit
    decorated: Callable[[Leaves], PyTree] | None = None  # the function with the rule, where that is not forward
    rules: frozenset[str] = frozenset()  # its kinds of custom rules (`rules_of`)
    by_row: bool = False  # the output has the batch axis first, and no row depends on another
    layer: Layer | None = None
    setting: tuple = ()  # the layer's (params, x, ctx)
    delta: Callable[[], tuple[PyTree, PyTree]] | None = None  # the loss's dy, hand-written and true
    domain: Bounds = field(default_factory=dict)  # of the leaves that have bounds; differences stay inside
    surrogate: bool = False  # the derivative is declared to be another function's: its values do not count
    first_order: bool = False  # the derivative is not to be differentiated
    rounding: float = 0.0  # the relative error that the function's own precision explains
    findings: tuple[Finding, ...] = ()  # what was seen when the functions were first called

    @property
    def counts(self) -> Counts:
        """The lengths that a wrong factor may be."""
        return counts(self.size, self.data, self.dy, self.leaves)


def gradient_problem(
    gradient: Callable, loss: Callable, params: PyTree, *batch: PyTree, dtype: Any = np.float64
) -> Problem:
    """gradient(params, *batch) -> like params, said to be the derivative of the scalar loss(params, *batch)."""
    dtypes = dtypes_of(params)
    theirs = (params, *batch)
    params, batch = in_dtype((params, batch), dtype)
    leaves, rebuild = split(params, "parameters")
    dy = jnp.ones((), dtype)

    def forward_of(loss: Callable) -> Callable[[Leaves], jax.Array]:
        return lambda leaves: _scalar(loss(rebuild(leaves), *batch), name_of(loss), dtype)

    def pullback_of(gradient: Callable) -> Pullback:
        return _scalar_pullback(lambda leaves: gradient(rebuild(leaves), *batch), name_of(gradient), params)

    value = suited(forward_of, loss, named(loss, theirs), leaves)
    derivative = suited(lambda g: lambda leaves: pullback_of(g)(leaves, dy), gradient, named(gradient, theirs), leaves)
    forward = forward_of(value.function)
    variant = lambda change, dtype: gradient_problem(gradient, loss, params, *change(batch), dtype=dtype)
    pullback = pullback_of(derivative.function)
    problem = Problem(name_of(gradient), forward, pullback, leaves, dy, dtypes, variant, batch, batch_size(batch))
    return replace(
        problem,
        differentiable=value.traceable and _differentiable(forward, leaves, dy),
        on_numpy=not value.traceable,
        traceable=derivative.traceable,
        findings=(*value.findings, *derivative.findings),
    )


def function_problem(
    function: Callable,
    *arguments: PyTree,
    reference: Callable | None = None,
    surrogate: bool = False,
    first_order: bool = False,
    native: bool = False,
    keywords: Mapping[str, Any] = MappingProxyType({}),
    dtype: Any = np.float64,
) -> Problem:
    """function(*arguments, **keywords) with a jax.custom_vjp or custom_jvp, against the plain `reference`.

    Without a reference, JAX differentiates the function itself with its custom rules taken off. surrogate: the
    derivative is declared to be the reference's, whatever the values are. native: the function runs in the precision
    of the caller's arguments.
    """
    if (surrogate or native) and reference is None:
        word = "surrogate" if surrogate else "native"
        raise InputError(f"{word}=True needs a reference: its derivative is the true one")
    theirs = named(function, arguments)
    by_position = tuple(theirs)
    theirs |= keywords
    fixed = {name: theirs[name] for name in _fixed(function, by_position, keywords)}
    passed = in_dtype({name: value for name, value in theirs.items() if name not in fixed}, dtype)
    leaves, rebuild = split(passed, "arguments")
    dtypes = dtypes_of(theirs)
    own = own_dtypes(dtypes, leaves) if native else dict.fromkeys(leaves, dtype)
    leaves = {path: a.astype(own[path]).astype(dtype) for path, a in leaves.items()}

    def call(f: Callable, leaves: Leaves) -> PyTree:
        positional, keywords = _arranged(fixed | rebuild(leaves), by_position)
        return jax.tree.map(lambda a: a.astype(dtype), _floating(f(*positional, **keywords)))

    decorated = lambda leaves: call(function, cast(leaves, own))
    hint = "; native=True checks a function in its arguments' own precision"
    findings = traced(decorated, leaves, name_of(function), hint).findings
    y = jax.eval_shape(decorated, leaves)
    if not y:
        raise InputError(f"{name_of(function)} returns nothing floating: there is nothing to differentiate")
    dy = cotangent(y, dtype)
    pullback = lambda leaves, dy: jax.vjp(decorated, leaves)[1](dy)[0]
    rules = rules_of(decorated, leaves)
    if "custom_jvp_call" in rules and "custom_vjp_call" not in rules and not _differentiable(decorated, leaves, dy):
        pullback = by_columns(decorated)
    findings += traced(lambda leaves: pullback(leaves, dy), leaves, f"the derivative of {name_of(function)}").findings
    forward, on_numpy = undecorated(decorated), False
    if reference:
        plain = suited(lambda f: lambda leaves: call(f, leaves), reference, theirs, leaves)
        forward, on_numpy = lambda leaves: call(plain.function, leaves), not plain.traceable
        findings = plain.findings if native else (*findings, *plain.findings)
        plain_y = forward(leaves) if on_numpy else jax.eval_shape(forward, leaves)
        if jax.tree.map(jnp.shape, plain_y) != jax.tree.map(jnp.shape, y):
            raise InputError(
                f"not the same forward: {name_of(function)} returns {_shapes(y)} and the reference "
                f"{name_of(reference)} {_shapes(plain_y)}"
            )

    def variant(change: Callable[[PyTree], PyTree], dtype: Any) -> Problem:
        positional, keywords = _arranged(fixed | change(passed), by_position)
        kind = {"native": native and dtype == np.float64, "surrogate": surrogate, "first_order": first_order}
        return function_problem(function, *positional, keywords=keywords, reference=reference, dtype=dtype, **kind)

    problem = Problem(name_of(function), forward, pullback, leaves, dy, dtypes, variant, passed)
    differentiable = not on_numpy and _differentiable(forward, leaves, dy)
    if surrogate and not differentiable:
        raise InputError("JAX cannot differentiate the reference, and a surrogate gradient has no other truth")
    return replace(
        problem,
        differentiable=differentiable,
        on_numpy=on_numpy,
        own_reference=reference is None,
        decorated=None if surrogate else decorated,
        rules=rules,
        findings=findings,
        surrogate=surrogate,
        first_order=first_order,
        rounding=rounding(forward, leaves, dy, own) if native and differentiable else 0.0,
    )


def _fixed(function: Callable, by_position: tuple[str, ...], keywords: Mapping[str, Any]) -> list[str]:
    """The arguments that are no subject of the derivative: those that a rule excludes, and keywords without arrays."""
    excluded = [by_position[i] for i in getattr(function, "nondiff_argnums", ()) if i < len(by_position)]
    arrays = lambda value: any(isinstance(leaf, np.ndarray | jax.Array) for leaf in jax.tree.leaves(value))
    return [*excluded, *(name for name, value in keywords.items() if not arrays(value))]


def _arranged(values: Mapping[str, Any], by_position: tuple[str, ...]) -> tuple[list, dict[str, Any]]:
    """(the positional arguments, the keywords) of a call."""
    keywords = {name: value for name, value in values.items() if name not in by_position}
    return [values[name] for name in by_position], keywords


def layer_problem(layer: Layer, params: PyTree, x: PyTree, ctx: Context, dtype: Any = np.float64) -> Problem:
    """A layer's backward against its own forward: leaves `grads/...` and, for floating inputs, `dx`."""
    dtypes = dtypes_of({"grads": params, "dx": x})
    params, x, ctx = in_dtype((params, x, ctx), dtype)
    leaves, rebuild = split({"grads": params, "dx": x}, "layer's parameters and inputs")

    def forward(leaves: Leaves) -> PyTree:
        tree = rebuild(leaves)
        return layer.forward(tree["grads"], tree["dx"], ctx)[0]

    def pullback(leaves: Leaves, dy: PyTree) -> Gradient:
        tree = rebuild(leaves)
        _, cache = layer.forward(tree["grads"], tree["dx"], ctx)
        dx, grads = layer.backward(tree["grads"], cache, dy)
        return aligned({"grads": grads, "dx": dx}, leaves, label(layer), tree)

    there = traced(forward, leaves, label(layer))
    dy = cotangent(jax.eval_shape(forward, leaves), dtype)
    back = traced(lambda leaves: pullback(leaves, dy), leaves, f"{label(layer)}.backward")
    variant = lambda change, dtype: layer_problem(layer, params, change(x), ctx, dtype)
    size = len(jax.tree.leaves(x)[0])
    problem = Problem(label(layer), forward, pullback, leaves, dy, dtypes, variant, x, size)
    by_row = not any(leaf.couples_batch for leaf in leaf_layers(layer))
    declared = surrogates(layer)
    findings = (*there.findings, *back.findings, *declared)
    setting = (params, x, ctx)
    return replace(problem, by_row=by_row, layer=layer, setting=setting, findings=findings, surrogate=bool(declared))


def surrogates(layer: Layer) -> tuple[Finding, ...]:
    """What the report says of layers with the attribute `surrogate`: their backward is of a slope that they declare.

    Such a layer's forward names the slope to JAX by jax.custom_jvp.
    """
    names = sorted({label(leaf) for leaf in leaf_layers(layer) if getattr(leaf, "surrogate", False)})
    words = "backward is that of the slope that the layer declares; differences of its values do not count"
    return (Finding("surrogate", True, f"{', '.join(names)}: {words}"),) if names else ()


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
    dtypes = dtypes_of(params)
    params, batch, ctx = in_dtype((params, batch, ctx), dtype)
    leaves, rebuild = split(params, "parameters")
    dy = jnp.ones((), dtype)
    hand = value_and_grad(model, loss, penalties)
    value = objective(model, loss, penalties)
    forward = lambda leaves: value(rebuild(leaves), batch, ctx)[0]
    pullback = _scalar_pullback(lambda leaves: hand(rebuild(leaves), batch, ctx).grads, label(model), params)
    there = traced(forward, leaves, label(model))
    back = traced(lambda leaves: pullback(leaves, dy), leaves, f"{label(model)}.backward")
    x, counting = jax.jit(ctx.counted)(batch)

    def delta() -> tuple[PyTree, PyTree]:
        y = model.forward(params, x, counting)[0]
        _, cache = loss.forward(y, batch["y"], batch["weight"])
        return loss.backward(cache), jax.grad(lambda y: loss.forward(y, batch["y"], batch["weight"])[0])(y)

    variant = lambda change, dtype: model_problem(model, loss, params, change(batch), ctx, penalties, dtype)
    size = len(batch["weight"])
    problem = Problem(label(model), forward, pullback, leaves, dy, dtypes, variant, batch["x"], size)
    declared = surrogates(model)
    findings = (*there.findings, *back.findings, *declared)
    setting = (params, x, counting)
    return replace(problem, layer=model, setting=setting, delta=delta, findings=findings, surrogate=bool(declared))


def _scalar_pullback(gradient: Callable[[Leaves], PyTree], who: str, like: PyTree) -> Pullback:
    """The pullback of a scalar whose gradient(leaves) is a tree like `like`: dy times each leaf."""

    def pullback(leaves: Leaves, dy: jax.Array) -> Gradient:
        gradients = aligned(gradient(leaves), leaves, who, like)
        return {path: None if g is None else dy * g for path, g in gradients.items()}

    return pullback


def _scalar(value: Any, who: str, dtype: Any) -> jax.Array:
    """The value of a loss. Raises InputError for any other than a scalar, and for one that NumPy code made narrow."""
    if not jax.tree.leaves(value) or np.shape(value) != () or not is_float(jnp.asarray(value)):
        what = f"{_shapes(value)} of {jax.tree.leaves(value)[0].dtype}" if hasattr(value, "dtype") else repr(value)
        raise InputError(f"the loss must be a scalar of a floating type: {who} returned {what}")
    if isinstance(value, np.generic | np.ndarray) and value.dtype.itemsize < np.dtype(dtype).itemsize:
        raise InputError(
            f"{who} returned {value.dtype} for {np.dtype(dtype)} arguments: its differences are rounding noise; "
            f"compute the loss in {np.dtype(dtype)}"
        )
    return value


def _floating(y: PyTree) -> PyTree:
    """The floating outputs of a function, by path, complex ones by part: the others have no cotangent."""
    flat = {path_name(path): a for path, a in jax.tree_util.tree_flatten_with_path(y)[0]}
    return {part: a for path, y in flat.items() if is_inexact(y) for part, a in by_part(path, jnp.asarray(y)).items()}


def _differentiable(forward: Callable, leaves: Leaves, dy: PyTree) -> bool:
    """Whether JAX has a reverse mode for `forward`: NumPy code, a while loop and some special functions have none."""
    try:
        jax.eval_shape(lambda leaves: jax.vjp(forward, leaves)[1](dy), leaves)
    except (NotImplementedError, TypeError, ValueError, jax.errors.JAXTypeError):
        return False
    return True


def _shapes(tree: PyTree) -> str:
    return ", ".join(str(tuple(a.shape)) for a in jax.tree.leaves(tree)) or "nothing floating"
