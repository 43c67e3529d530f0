"""Linear layer, softmax and cross-entropy in one, over chunks of rows: the logits of all rows never exist.

    forward   z_s = w x_s + b,  or  cap tanh((w x_s + b) / cap)        [V] logits of a row
              L_s = ln sum_o e^z_so
              item_s = L_s - sum_o t_so z_so + z_loss L_s^2            t_s: 1 at the class, with smoothing spread over V
              value = sum_s weight_s item_s
    backward  dz_s = weight_s ((1 + 2 z_loss L_s) e^(z_s - L_s) - t_s),  times 1 - (z_s / cap)^2
              dx_s = dz_s w,   dw = sum_s dz_s x_s^T,   db = sum_s dz_s

The value is a sum with known weights, so dz is known as soon as z is. Each chunk's logits give its deltas at once and
are forgotten: three products, as with stored logits, where a pass of its own would make the logits again with a fourth.
Only dw is carried from chunk to chunk. On CPU it grows a block of rows at a time, in place, for a product of its size
would need as much memory again. The logit of a row's own class is a product of two vectors: so nothing but e^(z - L)
needs z, and takes its place. Cost: 6 S I V operations.

(Chunks with the gradients formed going forward: Hsu et al. 2024, arXiv 2410.10989, section 3.2. Soft cap: Gemma Team
2024, arXiv 2408.00118, section 2. z-loss: Chowdhery et al. 2022, arXiv 2204.02311, section 5.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.core import wide
from jaxbp.errors import InputError
from jaxbp.letters import first_entry
from jaxbp.ops.products import rounded

BLOCK = 2**19  # numbers of dw that grow together: 2 MiB in float32


@dataclass(frozen=True)
class Form:
    """What the loss of a row is, and how many rows have logits at once.

    axis: of a mesh, whose devices have equal parts of the classes, w and b, in order; None: all classes are here. Then
    sums over classes are summed over the devices, the largest logit is theirs, and dx is this device's part of a sum.
    """

    chunk: int
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    soft_cap: float | None = None
    axis: str | None = None

    def __post_init__(self) -> None:
        for name, holds, words in (
            ("chunk", self.chunk >= 1, "at least 1"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)"),
            ("z_loss", self.z_loss >= 0, "at least 0"),
            ("soft_cap", self.soft_cap is None or self.soft_cap > 0, "positive"),
        ):
            if not holds:
                raise InputError(f"linear_cross_entropy: {name} must be {words}, got {getattr(self, name)}")

    def all_classes(self, own: int) -> int:
        """V, where this device has `own` of them."""
        return own if self.axis is None else own * lax.psum(1, self.axis)

    def summed(self, arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """Sums over this device's classes -> over all."""
        return arrays if self.axis is None else lax.psum(arrays, self.axis)

    def largest(self, a: jax.Array) -> jax.Array:
        """The largest of this device's classes -> of all."""
        return a if self.axis is None else lax.pmax(a, self.axis)


class Gradients(NamedTuple):
    """The derivatives of the value, like the arguments of the same name."""

    x: jax.Array
    w: jax.Array
    b: jax.Array | None


def linear_cross_entropy(
    x: jax.Array,
    w: jax.Array,
    target: jax.Array,
    weight: jax.Array | None = None,
    b: jax.Array | None = None,
    *,
    ignore: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    soft_cap: float | None = None,
    chunk: int = 384,
) -> jax.Array:
    """-> sum of weight times the cross-entropy of the logits x w^T + b with the classes in target: a scalar.

    x [..., I], w [V, I], b [V], target [...] of 0 ... V - 1, weight [...]: without weights the mean over the rows that
    count. ignore: a class whose rows do not count. label_smoothing in [0, 1) is spread over all classes. z_loss, at
    least 0, times L^2 keeps the normalizer near 1. soft_cap, positive, bounds the logits. chunk: rows that have logits
    at once, at least 1. The value is in at least float32; the gradients in x, w, b and weight have their dtypes, and in
    a weight of 0 it is 0, since such a row is not looked at. A
    class that does not exist gives nan. Works under jit, vmap, scan, remat and inside another gradient; not under
    jax.jvp. Raises InputError for shapes that do not fit and settings out of their range.
    """
    x, w, target, weight, b = jax.tree.map(jnp.asarray, (x, w, target, weight, b))
    check(x, w, target, weight, b)
    form = Form(chunk, label_smoothing, z_loss, soft_cap)
    counts = jnp.ones(target.shape, bool) if ignore is None else target != ignore
    if weight is None:
        weight = 1 / jnp.maximum(jnp.sum(counts), 1).astype(wide(x).dtype)
    weight = jnp.where(counts, weight, 0)
    return _value(form, x, w, b, target, weight)


def check(x: jax.Array, w: jax.Array, target: jax.Array, weight: jax.Array | None, b: jax.Array | None) -> None:
    """Raises InputError unless the shapes fit and the classes are integers."""
    shapes = ((w, (w.shape[0], x.shape[-1])), (target, x.shape[:-1]), (weight, x.shape[:-1]), (b, w.shape[:1]))
    if not all(a is None or a.shape == shape for a, shape in shapes) or not jnp.issubdtype(target.dtype, jnp.integer):
        given = ", ".join("none" if a is None else f"{a.dtype}{list(a.shape)}" for a in (x, w, target, weight, b))
        raise InputError(
            "linear_cross_entropy: x [..., I], w [V, I], integer target [...], weight [...] and b [V] do not fit: "
            f"got {given}"
        )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _value(
    form: Form, x: jax.Array, w: jax.Array, b: jax.Array | None, target: jax.Array, weight: jax.Array
) -> jax.Array:
    return weighted_sum(weight, scored(form, x, w, b, target)[0])


def _value_forward(
    form: Form, x: jax.Array, w: jax.Array, b: jax.Array | None, target: jax.Array, weight: jax.Array
) -> tuple[jax.Array, tuple[Gradients, jax.Array]]:
    items, gradients = differentiated(form, x, w, b, target, weight)
    return weighted_sum(weight, items), (gradients, jnp.where(weight == 0, 0, items).astype(weight.dtype))


def _value_backward(form: Form, kept: tuple[Gradients, jax.Array], dy: jax.Array) -> tuple[jax.Array | None, ...]:
    gradients, items = jax.tree.map(lambda a: dy.astype(a.dtype) * a, kept)
    return *gradients, None, items


_value.defvjp(_value_forward, _value_backward)


def scored(
    form: Form, x: jax.Array, w: jax.Array, b: jax.Array | None, target: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """-> (loss of each item [...], the class with the largest logit [...])."""

    def of_chunk(chunk: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        x, target = chunk
        z, items, _ = losses(form, x, w, b, target)
        classes = lax.argmax(z, 1, target.dtype)
        if form.axis is None:
            return items, classes
        best = jnp.max(z, 1)
        count = form.all_classes(len(w))
        own = jnp.where(
            best == form.largest(best), classes + jnp.asarray(first_entry(form.axis, len(w)), classes.dtype), count
        )
        return items, lax.pmin(own, form.axis)

    results = lax.map(of_chunk, in_chunks(form.chunk, target.shape, x, target))
    items, classes = (joined(a, target.shape) for a in results)
    return items, classes


def differentiated(
    form: Form, x: jax.Array, w: jax.Array, b: jax.Array | None, target: jax.Array, weight: jax.Array
) -> tuple[jax.Array, Gradients]:
    """-> (loss of each item [...], the gradients of their sum with these weights)."""

    def of_chunk(sums: tuple, chunk: tuple[jax.Array, ...]) -> tuple[tuple, tuple[jax.Array, jax.Array]]:
        dw, db = sums
        x, target, weight = chunk
        x = jnp.where(weight[:, None] == 0, 0, x)  # it may hold inf or nan
        z, items, log_total = losses(form, x, w, b, target)
        dz = deltas(form, z, log_total, target, weight)
        db = None if db is None else db + jnp.sum(dz, 0, dtype=db.dtype)
        dz = dz.astype(x.dtype)
        dx = rounded("so,oi->si", dz, w.astype(x.dtype))
        return (with_product(dw, dz, x), db), (items, dx)

    sums = jax.tree.map(lambda a: jnp.zeros(a.shape, wide(a).dtype), (w, b))  # in bfloat16 chunks would be lost
    chunks = in_chunks(form.chunk, target.shape, x, target, weight)
    sums, (items, dx) = lax.scan(of_chunk, sums, chunks)
    dw, db = jax.tree.map(lambda total, a: total.astype(a.dtype), sums, (w, b))
    return joined(items, target.shape), Gradients(joined(dx, target.shape), dw, db)


def losses(
    form: Form, x: jax.Array, w: jax.Array, b: jax.Array | None, target: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One chunk -> (logits z [S, V], loss of each row [S], L [S])."""
    z = jnp.einsum("si,oi->so", x, w.astype(x.dtype), preferred_element_type=wide(x).dtype)
    z = capped(form, z if b is None else z + b.astype(z.dtype)[None])
    top = form.largest(jnp.max(z, -1))
    classes = target if form.axis is None else target - first_entry(form.axis, len(w))
    classes = jnp.where(classes < 0, len(w), classes)  # JAX would count negative ones from the end
    row = lambda a: a.at[classes].get(mode="fill", fill_value=jnp.nan if form.axis is None else 0)
    own = jnp.einsum("si,si->s", x, row(w).astype(x.dtype), preferred_element_type=z.dtype)
    own = capped(form, own if b is None else own + row(b).astype(z.dtype))
    s = form.label_smoothing
    count = form.all_classes(len(w))
    sums = (jnp.sum(jnp.exp(z - top[:, None]), -1), own, *((jnp.sum(z, -1),) if s else ()))
    total, own, *spread = form.summed(sums)
    if form.axis is not None:
        own = jnp.where((target >= 0) & (target < count), own, jnp.nan)
    log_total = jnp.log(total) + top
    items = log_total - (1 - s) * own
    if s:
        items -= s * spread[0] / count
    if form.z_loss:
        items += form.z_loss * log_total**2
    return z, items, log_total


def deltas(form: Form, z: jax.Array, log_total: jax.Array, target: jax.Array, weight: jax.Array) -> jax.Array:
    """dz [S, V] of one chunk."""
    s = form.label_smoothing
    weight = weight.astype(z.dtype)[:, None]
    is_own = lax.broadcasted_iota(target.dtype, z.shape, 1) == target[:, None] - first_entry(form.axis, z.shape[1])
    slope = weight * (1 + 2 * form.z_loss * log_total)[:, None] if form.z_loss else weight
    dz = slope * jnp.exp(z - log_total[:, None]) - jnp.where(is_own, weight * (1 - s), 0)
    if s:
        dz -= weight * s / form.all_classes(z.shape[-1])
    return dz if form.soft_cap is None else dz * (1 - jnp.square(z / form.soft_cap))


def capped(form: Form, z: jax.Array) -> jax.Array:
    """cap tanh(z / cap)."""
    return z if form.soft_cap is None else form.soft_cap * jnp.tanh(z / form.soft_cap)


def with_product(dw: jax.Array, dz: jax.Array, x: jax.Array) -> jax.Array:
    """dw + dz^T x [V, I]; on CPU a block of rows at a time."""
    outputs, features = dw.shape
    size = min(outputs, max(1, BLOCK // features))

    def grown(dw: jax.Array, dz: jax.Array, x: jax.Array, start: jax.Array | int, size: int) -> jax.Array:
        part = lax.dynamic_slice_in_dim(dz, start, size, 1)
        product = jnp.einsum("so,si->oi", part, x, preferred_element_type=dw.dtype)
        return lax.dynamic_update_slice_in_dim(dw, lax.dynamic_slice_in_dim(dw, start, size) + product, start, 0)

    def by_blocks(dw: jax.Array, dz: jax.Array, x: jax.Array) -> jax.Array:
        blocks = outputs // size
        dw = lax.fori_loop(0, blocks, lambda i, dw: grown(dw, dz, x, i * size, size), dw)
        return grown(dw, dz, x, blocks * size, outputs % size) if outputs % size else dw

    def at_once(dw: jax.Array, dz: jax.Array, x: jax.Array) -> jax.Array:
        return dw + jnp.einsum("so,si->oi", dz, x, preferred_element_type=dw.dtype)

    return lax.platform_dependent(dw, dz, x, cpu=by_blocks, default=at_once)


def in_chunks(chunk: int, items: tuple[int, ...], *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """[*items, ...] -> [chunks, at most `chunk` rows, ...] each; zeros fill up the last one."""
    rows = prod(items)
    count = max(1, -(-rows // chunk))
    size = -(-rows // count)

    def cut(a: jax.Array) -> jax.Array:
        a = a.reshape(rows, *a.shape[len(items) :])
        a = jnp.pad(a, ((0, count * size - rows), *((0, 0),) * (a.ndim - 1)))
        return a.reshape(count, size, *a.shape[1:])

    return tuple(cut(a) for a in arrays)


def joined(a: jax.Array, items: tuple[int, ...]) -> jax.Array:
    """[chunks, rows, ...] -> [*items, ...]."""
    return a.reshape(-1, *a.shape[2:])[: prod(items)].reshape(*items, *a.shape[2:])


def weighted_sum(weight: jax.Array, items: jax.Array) -> jax.Array:
    """sum weight items, in the wider dtype of the two; an item of weight 0 may be nan."""
    dtype = np.promote_types(weight.dtype, items.dtype)
    return jnp.sum(jnp.where(weight == 0, 0, weight.astype(dtype) * items.astype(dtype)))
