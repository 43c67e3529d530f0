"""Recurrent: a cell over time, with backpropagation through time.

    forward   s_t = cell(x_t, s_t-1),  y_t = the first array of s_t
    backward  ds_t = dy_t + (ds_t+1 sent back through step t + 1)                       t = T ... 1
              dw = sum_t (delta of step t) (activation of step t)^T                     after the loop

The loop back carries the deltas of the state and nothing else. Derivative factors are made of the kept gates before it,
as whole arrays; input projections before the forward loop and weight gradients after the loop back are one product each
over all steps, where autodiff adds up a weight-shaped array at every step (Werbos 1990; the order of work is that of
Appleyard et al. 2016, arXiv 1604.01946). Arrays are time-first inside the loops and batch-first at the door.

Masked steps carry the state on unchanged, so the delta passes them unchanged and their inputs get none.

keep chooses the memory between the passes, for gates G and state S of a cell:

    "all"     gates and states of every step      T N (G + S)
    "states"  states of every step                T N S        a window's gates are computed again, all steps at once
    "sqrt"    states at the windows' starts       sqrt(T) N S  a window's forward runs again (Chen et al. 2016)

with the steps in windows of about sqrt(T); only one window's gates, factors and deltas exist at a time.

truncate=k cuts the delta before the steps k, 2k, ...: what happened before the last of them gets none (Williams & Peng
1990, with both of their k equal). It is the gradient of the same forward with stop_gradient on the state there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import Case, Context, Layer, PyTree, add, cast, map_leaves, normal, register, shaped
from jaxbp.errors import InputError, unknown
from jaxbp.factors import Factors
from jaxbp.layers.cells import Arrays, Cell, GRUCell, LSTMCell, Pairs, SimpleCell, outers

CHOICES = {"output": ("sequence", "last"), "keep": ("all", "states", "sqrt"), "initial": ("zeros", "learned")}


@partial(register, data_fields=["inputs", "initial", "steps", "last"], meta_fields=[])
@dataclass(frozen=True)
class Run:
    """What forward keeps, batch first; steps in the order in which the loop went."""

    inputs: PyTree  # as they came
    initial: Arrays  # the state before the first step, each [N, H]
    steps: jax.Array  # [N, T, G + S], [N, T, S] or [N, windows, S]
    last: Arrays | None  # the state after the last step, where the next batch goes on from it


@partial(register, data_fields=["x", "mask", "cut", "dy"], meta_fields=[])
@dataclass(frozen=True)
class Seen:
    """What comes in at every step, time first and in the order of the loop."""

    x: jax.Array  # [T, N, D]
    mask: jax.Array | None  # [T, N, 1], False where the state is carried on unchanged
    cut: jax.Array | None  # [T], True where no delta goes back to the step before
    dy: jax.Array | None = None  # [T, N, H]


@dataclass(frozen=True)
class Recurrent(Layer):
    """x [N, T, D] -> y [N, T, H], or [N, H] with output="last"; the cell's params, "initial" [states, H] if learned.

    The input may be a tuple (x, valid): valid [N, T], true (or above 0.5) where a step counts, or integer lengths [N].
    A step that does not count repeats the state before it, in the output too.

    reverse: from the last step to the first. keep, truncate: see the module; truncate at least 1.
    initial: the state before the first step. carry: it is where the batch before ended instead (Context.state; row n
    goes on as row n), and no delta goes back there: truncated backpropagation through time over windows.
    """

    cell: Cell
    reverse: bool = False
    output: Literal["sequence", "last"] = "sequence"
    keep: Literal["all", "states", "sqrt"] = "all"
    initial: Literal["zeros", "learned"] = "zeros"
    carry: bool = False
    truncate: int | None = None

    def __post_init__(self) -> None:
        for field, allowed in CHOICES.items():
            if getattr(self, field) not in allowed:
                raise unknown(f"Recurrent {field}", getattr(self, field), allowed)
        if self.truncate is not None and self.truncate < 1:
            raise InputError(f"Recurrent: truncate must be at least 1, got {self.truncate}")
        if self.carry and (self.reverse or self.initial == "learned"):
            raise InputError("Recurrent: carry goes neither with reverse nor with a learned initial state")

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        x = jax.tree.leaves(spec)[0]
        if len(x.shape) != 3:
            raise InputError(f"Recurrent: the input is [N, T, D], got {list(x.shape)}")
        params = self.cell.init(key, (x,))
        learned = {"initial": jnp.zeros((self.cell.states, self.cell.features), jnp.float32)}
        return params | learned if self.initial == "learned" else params

    def init_state(self, spec: PyTree) -> PyTree:
        x = jax.tree.leaves(spec)[0]
        return self.cell.start(x.shape[0], x.dtype) if self.carry else {}

    def next_state(self, state: PyTree, cache: Run) -> PyTree:
        return jax.tree.map(lambda old, new: new.astype(old.dtype), state, cache.last) if self.carry else state

    # --- forward ------------------------------------------------------------------------------------------------------

    def forward(self, params: PyTree, x: PyTree, ctx: Context) -> tuple[jax.Array, Run]:
        seen = self._enter(x)
        params = cast(params, seen.x.dtype)
        initial = self._start(params, seen.x, ctx)
        if self.keep == "all":
            last, steps = self._scan(params, initial, seen)
            y = self._parts(steps)[self.cell.gates]
        else:
            last, (y, steps) = jax.lax.scan(partial(self._window, params), initial, _windows(seen))
            y = _joined(y, len(seen.x))
            steps = steps.reshape(-1, *steps.shape[-2:])
        y = last[0] if self.output == "last" else self._outward(y)
        return y, Run(x, initial, jnp.swapaxes(steps, 0, 1), last if self.carry else None)

    def _start(self, params: PyTree, x: jax.Array, ctx: Context) -> Arrays:
        zeros = self.cell.start(x.shape[1], x.dtype)
        if self.initial == "learned":
            return tuple(jnp.broadcast_to(s, z.shape) for s, z in zip(params["initial"], zeros, strict=True))
        return cast(ctx.state, x.dtype) if self.carry and ctx.state is not None else zeros

    def _scan(self, params: PyTree, state: Arrays, seen: Seen) -> tuple[Arrays, jax.Array]:
        """-> (the last state, gates and states of every step side by side [T, N, G + S])."""
        weights = self.cell.loop_weights(params)

        def step(state: Arrays, now: tuple) -> tuple[Arrays, jax.Array]:
            a, mask, cut = now
            if cut is not None:
                state = tuple(jnp.where(cut, jax.lax.stop_gradient(s), s) for s in state)
            after, gates = self.cell.step(weights, state, a)
            if mask is not None:
                after = tuple(jnp.where(mask, new, old) for new, old in zip(after, state, strict=True))
            return after, jnp.concatenate(gates + after, -1)

        return jax.lax.scan(step, state, (self.cell.project(params, seen.x), seen.mask, seen.cut))

    def _window(self, params: PyTree, state: Arrays, seen: Seen) -> tuple[Arrays, tuple]:
        """One window of the forward loop -> (state, (outputs, what is kept of it))."""
        last, steps = self._scan(params, state, seen)
        states = self._parts(steps)[self.cell.gates :]
        y = states[0] if self.output == "sequence" else None
        return last, (y, jnp.concatenate(states if self.keep == "states" else state, -1))

    # --- backward -----------------------------------------------------------------------------------------------------

    def backward(self, params: PyTree, cache: Run, dy: jax.Array) -> tuple[PyTree, PyTree]:
        take = lambda pairs: self.cell.gradients(params, pairs)[::-1]
        cells = {leaf: p for leaf, p in params.items() if leaf != "initial"}
        dinitial, grads, dx = self._back(params, cache, dy, take, jax.tree.map(jnp.zeros_like, cells))
        if self.initial == "learned":
            grads["initial"] = jnp.stack([jnp.sum(d, 0, dtype=params["initial"].dtype) for d in dinitial])
        dx = self._outward(dx)
        if not isinstance(cache.inputs, tuple):
            return dx, grads
        valid = cache.inputs[1]
        return (dx, jnp.zeros_like(valid) if jnp.issubdtype(valid.dtype, jnp.floating) else None), grads

    def factors(self, params: PyTree, cache: Run, dy: jax.Array) -> dict[str, Factors]:
        dinitial, _, pairs = self._back(params, cache, dy, lambda pairs: ({}, pairs), {})
        pairs = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), pairs)
        if self.initial == "learned":
            pairs["initial"] = None, jnp.concatenate(dinitial, -1)[:, None]
        return outers(pairs)

    def _back(
        self, params: PyTree, run: Run, dy: jax.Array, take: Callable[[Pairs], tuple[PyTree, PyTree]], zeros: PyTree
    ) -> tuple[Arrays, PyTree, PyTree]:
        """-> (delta of the initial state, and the two that `take` makes of the pairs: a sum over time, a sequence)."""
        seen = self._enter(run.inputs, dy if self.output == "sequence" else None)
        params, steps = cast(params, seen.x.dtype), jnp.swapaxes(run.steps, 0, 1)
        dstate = tuple(jnp.zeros_like(s) for s in run.initial)
        dstate = (dy, *dstate[1:]) if self.output == "last" else dstate
        if self.keep == "all":
            dinitial, pairs = self._scan_back(params, run.initial, self._parts(steps), seen, dstate)
            return dinitial, *take(pairs)

        windows = _windows(seen)
        if self.keep == "states":
            steps = steps.reshape(*windows.x.shape[:2], *steps.shape[1:])
            starts = jnp.concatenate([jnp.concatenate(run.initial, -1)[None], steps[:-1, -1]])
        else:
            starts, steps = steps, None

        def window(carry: tuple, now: tuple) -> tuple[tuple, PyTree]:
            (dstate, total), (start, states, seen) = carry, now
            start = self._parts(start)
            dstate, pairs = self._scan_back(params, start, self._again(params, start, states, seen), seen, dstate)
            summed, sequence = take(pairs)
            return (dstate, add(total, summed)), sequence

        (dinitial, total), sequence = jax.lax.scan(window, (dstate, zeros), (starts, steps, windows), reverse=True)
        return dinitial, total, _joined(sequence, len(seen.x))

    def _again(self, params: PyTree, start: Arrays, states: jax.Array | None, seen: Seen) -> Arrays:
        """Gates and states of a window: from its first state step by step, from all its states at once."""
        if states is None:
            return self._parts(self._scan(params, start, seen)[1])
        states = self._parts(states)
        a = self.cell.project(params, seen.x)
        return self.cell.step(self.cell.loop_weights(params), _before(start, states), a)[1] + states

    def _scan_back(
        self, params: PyTree, initial: Arrays, parts: Arrays, seen: Seen, dstate: Arrays
    ) -> tuple[Arrays, Pairs]:
        """-> (delta of the state before the first step, pairs of whole sequences), time first."""
        gates, after = parts[: self.cell.gates], parts[self.cell.gates :]
        before = _before(initial, after)
        slopes = self.cell.slopes(params, before, gates, after)

        def step(dstate: Arrays, now: tuple) -> tuple[Arrays, Arrays]:
            dy, mask, cut, slopes = now
            if dy is not None:
                dstate = (dstate[0] + dy, *dstate[1:])
            counted = dstate if mask is None else tuple(jnp.where(mask, d, 0) for d in dstate)
            dbefore, deltas = self.cell.step_backward(params, counted, slopes)
            if mask is not None:
                dbefore = tuple(d + jnp.where(mask, 0, passing) for d, passing in zip(dbefore, dstate, strict=True))
            if cut is not None:
                dbefore = tuple(jnp.where(cut, 0, d) for d in dbefore)
            return dbefore, deltas

        dinitial, deltas = jax.lax.scan(step, dstate, (seen.dy, seen.mask, seen.cut, slopes), reverse=True)
        return dinitial, self.cell.pairs(seen.x, before, gates, after, slopes, deltas)

    # --- the door -----------------------------------------------------------------------------------------------------

    def _enter(self, inputs: PyTree, dy: jax.Array | None = None) -> Seen:
        x, valid = inputs if isinstance(inputs, tuple) else (inputs, None)
        step = np.arange(x.shape[1])
        if valid is not None and valid.ndim == 1:
            valid = jnp.asarray(step, valid.dtype)[None] < valid[:, None]
        mask = None if valid is None else self._inward((valid if valid.dtype == bool else valid > 0.5)[..., None])
        cut = None if self.truncate is None else jnp.asarray((step > 0) & (step % self.truncate == 0))
        return Seen(self._inward(x), mask, cut, None if dy is None else self._inward(dy))

    def _inward(self, a: jax.Array) -> jax.Array:
        """[N, T, ...] as it came -> [T, N, ...] in the order of the loop."""
        a = jnp.swapaxes(a, 0, 1)
        return a[::-1] if self.reverse else a

    def _outward(self, a: jax.Array) -> jax.Array:
        """The other way."""
        return jnp.swapaxes(a[::-1] if self.reverse else a, 0, 1)

    def _parts(self, steps: jax.Array) -> Arrays:
        """The arrays that lie side by side in [..., parts * H]."""
        return tuple(jnp.split(steps, steps.shape[-1] // self.cell.features, -1))

    @classmethod
    def cases(cls) -> list[Case]:
        x, flags = shaped(5, 7, 3), shaped(5, 7)
        return [
            Case(Recurrent(SimpleCell(2)), x, name="simple"),
            Case(Recurrent(LSTMCell(2), reverse=True), x, name="lstm"),
            Case(Recurrent(LSTMCell(2, peephole=True), keep="states"), (x, flags), mask_or_normal, "peephole_masked"),
            Case(Recurrent(GRUCell(2), carry=True), x, name="gru"),
            Case(Recurrent(GRUCell(2, reset="before"), keep="sqrt", initial="learned", output="last"), x, name="sqrt"),
        ]


def with_carry(model: Layer, carry: bool) -> Layer:
    """The same model with its recurrent layers going on from Context.state, or each sequence beginning anew."""
    return map_leaves(model, lambda leaf: replace(leaf, carry=carry) if isinstance(leaf, Recurrent) else leaf)


def mask_or_normal(key: jax.Array, spec: jax.ShapeDtypeStruct) -> jax.Array:
    """Normal inputs [N, T, D]; zeros and ones where there is no D."""
    if len(spec.shape) == 3:
        return normal(key, spec)
    return jax.random.bernoulli(key, 0.6, spec.shape).astype(spec.dtype)


def _before(initial: Arrays, after: Arrays) -> Arrays:
    """The states before every step, from the first of all and the states after every step."""
    return tuple(jnp.concatenate([first[None], s[:-1]]) for first, s in zip(initial, after, strict=True))


def _windows(seen: Seen) -> Seen:
    """[T, ...] -> [windows, steps, ...], filled up with steps that do not count where T has no divisor near sqrt(T)."""
    time = len(seen.x)
    root = time**0.5
    size = min(range(ceil(root / 2), ceil(2 * root) + 1), key=lambda k: (-time % k, abs(k - root)))
    fill = -time % size
    if fill and seen.mask is None:
        seen = replace(seen, mask=jnp.ones((time, 1, 1), bool))
    pad = lambda a: jnp.pad(a, [(0, fill)] + [(0, 0)] * (a.ndim - 1))
    return jax.tree.map(lambda a: pad(a).reshape(-1, size, *a.shape[1:]), seen)


def _joined(windows: PyTree, time: int) -> PyTree:
    """[windows, steps, ...] -> [T, ...]."""
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:time], windows)
