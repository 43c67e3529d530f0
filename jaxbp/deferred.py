"""A last layer that hands on its input and its weights, for a loss that forms the logits a chunk of rows at a time.

    Dense          y = x w^T + b                dx = dy w, ...
    Defer(Dense)   y = Deferred(x, w, b)        dy = Deferred(dx, dw, db), handed on as the loss made them

A model stays as it is: the loss puts its last layer off, and whoever needs logits (a prediction, one example's
gradient, curvature) runs the model itself with the same parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import jax

from jaxbp.compose import Chain, Graph, Node
from jaxbp.core import Context, Layer, PyTree, label, register
from jaxbp.errors import InputError
from jaxbp.layers import Dense, SoftCap
from jaxbp.letters import Letters
from jaxbp.wrappers import ComputedIn, Wrapper


@partial(register, data_fields=["x", "w", "b"], meta_fields=["soft_cap", "axis"])
@dataclass(frozen=True)
class Deferred:
    """The logits x w^T + b [..., V], soft-capped where a cap is set, not formed; or the deltas of x, w and b.

    axis: of a mesh, whose devices have equal parts of the classes in order; None: all classes are here.
    """

    x: jax.Array
    w: jax.Array
    b: jax.Array | None = None
    soft_cap: float | None = None
    axis: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the logits."""
        return *self.x.shape[:-1], self.w.shape[0]


@dataclass(frozen=True)
class Defer(Wrapper):
    """A Dense that is not applied, or the SoftCap after it. Its delta is a Deferred, of the whole batch for w and b."""

    inner: Dense | SoftCap

    @property
    def letters(self) -> Letters:
        return self.inner.letters

    def forward(self, params: PyTree, x: PyTree, ctx: Context = Context()) -> tuple[Deferred, None]:
        if isinstance(self.inner, SoftCap):
            return replace(x, soft_cap=self.inner.cap), None
        return Deferred(x, **params, axis=ctx.split), None

    def backward(self, params: PyTree, cache: None, dy: Deferred) -> tuple[PyTree, PyTree]:
        if isinstance(self.inner, SoftCap):
            return dy, {}
        return dy.x, {name: getattr(dy, name) for name in params}


def deferred(model: Layer) -> Layer:
    """The model with its last layer put off: a Dense, or a Dense and a SoftCap, also the last of a Chain or a Graph.

    A model whose last layer is put off already stays as it is. Raises InputError for one that ends in another layer.
    """
    match model:
        case ComputedIn():
            return replace(model, inner=deferred(model.inner))
        case Dense():
            return Defer(model)
        case Defer() | Wrapper(inner=Defer() | Wrapper(inner=Defer())):
            return model
        case Chain(layers=(*layers, Dense() as dense, SoftCap() as cap)):
            return Chain((*layers, Defer(dense), Defer(cap)))
        case Chain(layers=(*layers, last)):
            return Chain((*layers, deferred(last)))
        case Graph(nodes=(*nodes, Node(layer=SoftCap() as cap) as last)):
            ahead = next((node for node in nodes if (node.name,) == last.inputs), last)
            if isinstance(ahead.layer, Dense):
                put_off = replace(ahead, layer=Defer(ahead.layer))
                before = (put_off if node is ahead else node for node in nodes)
                return replace(model, nodes=(*before, replace(last, layer=Defer(cap))))
        case Graph(nodes=(*nodes, last)):
            return replace(model, nodes=(*nodes, replace(last, layer=deferred(last.layer))))
    wanted = "whose last layer is a Dense, or a SoftCap right behind one"
    raise InputError(f"a loss over chunks needs a model {wanted}, got '{label(model)}'")
