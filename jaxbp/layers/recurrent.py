"""Recurrent: a cell over time, with backpropagation through time.

    forward   s_t = cell(x_t, s_t-1),  y_t = the first array of s_t
    backward  ds_t = dy_t + (ds_t+1 sent back through step t + 1)                       t = T ... 1
              dw = sum_t (delta of step t) (activation of step t)^T                     after the loop

The loop back carries the deltas of the state and nothing else (Werbos 1990). One product over all steps gives the input
projections before the forward loop, the derivative factors are computed from the kept gates before the loop back, and
one product gives each weight gradient after it, where autodiff adds up a weight-shaped array at every step (the order
of work is that of Appleyard et al. 2016, arXiv 1604.01946). Arrays are time-first in the loops, batch-first outside.

A masked step leaves the state unchanged, so the delta passes it unchanged and its input gets none.

keep chooses the memory between the passes, for gates G and state S of a cell:

    "all"     gates and states of every step      T N (G + S)
    "states"  states of every step                T N S        a window's gates are computed again, all steps at once
    "sqrt"    states at the windows' starts       sqrt(T) N S  a window's forward runs again (Chen et al. 2016)

The steps lie in windows of about sqrt(T); the gates, factors and deltas of only one window exist at a time.

truncate=k cuts the delta before the steps k, 2k, ...: no delta passes from one part to the part before (Williams & Peng
1990, with both of their k equal). It is the gradient of the same forward with stop_gradient on the state there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import Case, Context, Layer, PyTree, add, cast, map_leaves, normal, register, require, shaped
from jaxbp.errors import InputError, unknown
from jaxbp.factors import Factors
from jaxbp.layers.cells import Arrays, Cell, GRUCell, LSTMCell, Pairs, SimpleCell, factors_of

CHOICES = {"output": ("sequence", "last"), "keep": ("all", "states", "sqrt"), "initial": ("zeros", "learned")}


@partial(register, data_fields=["inputs", "initial", "packed", "last"], meta_fields=[])
@dataclass(frozen=True)
class History:
    """What forward keeps, batch first; steps in the order of the loop."""

    inputs: PyTree  # as they came
    initial: Arrays  # the state before the first step, each [N, H]
    packed: jax.Array  # gates and states side by side [N, T, G + S]; states [N, T, S]; window starts [N, windows, S]
    last: Arrays | None  # the state after the last step, if the next batch goes on from it


@partial(register, data_fields=["x", "mask", "cut", "dy"], meta_fields=[])
@dataclass(frozen=True)
class Steps:
    """What comes in at every step, time first and in the order of the loop."""

    x: jax.Array  # [T, N, D]
    mask: jax.Array | None  # [T, N, 1], False where the state stays unchanged
    cut: jax.Array | None  # [T], True where no delta goes back to the step before
    dy: jax.Array | None = None  # [T, N, H]


class Collected(NamedTuple):
    """What a backward pass collects from the pairs of some steps."""

    total: PyTree  # summed over the steps
    by_step: PyTree  # time first


@dataclass(frozen=True)
class Recurrent(Layer):
    """x [N, T, D] -> y [N, T, H], or [N, H] with output="last"; the cell's params, "initial" [states, H] if learned.

    The input may be a tuple (x, valid): valid [N, T], true (or above 0.5) where a step counts, or integer lengths [N].
    A step that does not count may hold anything, nan too. It repeats the state before it, in the output too.

    reverse: from the last step to the first. keep, truncate: see the module; truncate is at least 1.
    initial: the state before the first step. carry: that state is instead the one in which the batch before ended
    (Context.state; row n goes on as row n), and no delta goes back to that batch: truncated backpropagation through
    time over windows. Raises InputError for carry with reverse or with a learned initial state.
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
        require(self, "truncate", self.truncate is None or self.truncate >= 1, "at least 1")
        if self.carry and (self.reverse or self.initial == "learned"):
            raise InputError("Recurrent: carry goes neither with reverse nor with a learned initial state")

    @property
    def surrogate(self) -> bool:
        """Whether backward is that of a slope which the cell declares, and not of its values."""
        return getattr(self.cell, "surrogate", False)

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        x = jax.tree.leaves(spec)[0]
        if len(x.shape) != 3:
            raise InputError(f"Recurrent: the input is [N, T, D], got {list(x.shape)}")
        params = self.cell.init(key, (x,))
        if self.initial == "learned":
            params["initial"] = jnp.zeros((self.cell.states, self.cell.features), jnp.float32)
        return params

    def init_state(self, spec: PyTree) -> PyTree:
        x = jax.tree.leaves(spec)[0]
        return self.cell.start(x.shape[0], x.dtype) if self.carry else {}

    def next_state(self, state: PyTree, cache: History) -> PyTree:
        return jax.tree.map(lambda old, new: new.astype(old.dtype), state, cache.last) if self.carry else state

    # --- forward ------------------------------------------------------------------------------------------------------

    def forward(self, params: PyTree, x: PyTree, ctx: Context = Context()) -> tuple[jax.Array, History]:
        steps = self._enter(x)
        params = cast(params, steps.x.dtype)
        initial = self._start(params, steps.x, ctx)
        if self.keep == "all":
            last, packed = self._scan(params, initial, steps)
            _, (y, *_) = self._unpack(packed)
        else:
            last, (y, packed) = jax.lax.scan(partial(self._window, params), initial, _windows(steps))
            y = _joined(y, len(steps.x))
            packed = packed.reshape(-1, *packed.shape[-2:])
        y = last[0] if self.output == "last" else self._outward(y)
        return y, History(x, initial, jnp.swapaxes(packed, 0, 1), last if self.carry else None)

    def _start(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> Arrays:
        zeros = self.cell.start(x.shape[1], x.dtype)
        if self.initial == "learned":
            return tuple(jnp.broadcast_to(s, z.shape) for s, z in zip(params["initial"], zeros, strict=True))
        return cast(ctx.state, x.dtype) if self.carry and ctx.state is not None else zeros

    def _scan(self, params: PyTree, state: Arrays, steps: Steps) -> tuple[Arrays, jax.Array]:
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

        # over one short row the loop itself takes a tenth of the time; back it does not, nor over more numbers
        unroll = 4 if len(steps.x) >= 256 and state[0].size <= 256 else 1
        return jax.lax.scan(step, state, (self.cell.project(params, steps.x), steps.mask, steps.cut), unroll=unroll)

    def _window(self, params: PyTree, state: Arrays, steps: Steps) -> tuple[Arrays, tuple]:
        """One window of the forward loop -> (state, (outputs, what is kept of it))."""
        last, packed = self._scan(params, state, steps)
        _, states = self._unpack(packed)
        y = states[0] if self.output == "sequence" else None
        return last, (y, jnp.concatenate(states if self.keep == "states" else state, -1))

    # --- backward -----------------------------------------------------------------------------------------------------

    def backward(self, params: PyTree, cache: History, dy: jax.Array) -> tuple[PyTree, PyTree]:
        def gradients(pairs: Pairs) -> Collected:
            dx, grads = self.cell.gradients(params, pairs)
            return Collected(total=grads, by_step=dx)

        zeros = {leaf: jnp.zeros_like(p) for leaf, p in params.items() if leaf != "initial"}
        dinitial, (grads, dx) = self._back(params, cache, dy, gradients, zeros)
        if self.initial == "learned":
            grads["initial"] = jnp.stack([jnp.sum(d, 0, dtype=params["initial"].dtype) for d in dinitial])
        dx = self._outward(dx)
        if not isinstance(cache.inputs, tuple):
            return dx, grads
        valid = cache.inputs[1]
        return (dx, jnp.zeros_like(valid) if jnp.issubdtype(valid.dtype, jnp.floating) else None), grads

    def factors(self, params: PyTree, cache: History, dy: jax.Array) -> dict[str, Factors]:
        def sequences(pairs: Pairs) -> Collected:
            return Collected(total={}, by_step=pairs)

        dinitial, (_, pairs) = self._back(params, cache, dy, sequences, {})
        pairs = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), pairs)
        if self.initial == "learned":
            pairs["initial"] = None, jnp.concatenate(dinitial, -1)[:, None]
        return factors_of(pairs)

    def _back(
        self, params: PyTree, history: History, dy: jax.Array, collect: Callable[[Pairs], Collected], zeros: PyTree
    ) -> tuple[Arrays, Collected]:
        """-> (delta of the initial state, what `collect` makes of the pairs); zeros: a total of no steps."""
        steps = self._enter(history.inputs, dy if self.output == "sequence" else None)
        params = cast(params, steps.x.dtype)
        packed = jnp.swapaxes(history.packed, 0, 1)
        dstate = tuple(jnp.zeros_like(s) for s in history.initial)
        if self.output == "last":
            dstate = (dy, *dstate[1:])
        if self.keep == "all":
            gates, after = self._unpack(packed)
            dinitial, pairs = self._scan_back(params, history.initial, gates, after, steps, dstate)
            return dinitial, collect(pairs)

        windows = _windows(steps)
        starts = packed  # [windows, N, S]
        states = None
        if self.keep == "states":
            states = packed.reshape(*windows.x.shape[:2], *packed.shape[1:])
            starts = jnp.concatenate([jnp.concatenate(history.initial, -1)[None], states[:-1, -1]])

        def window(carry: tuple, now: tuple) -> tuple[tuple, PyTree]:
            dstate, total = carry
            start, states, steps = now
            before = self._split(start)
            gates, after = self._again(params, before, states, steps)
            dstate, pairs = self._scan_back(params, before, gates, after, steps, dstate)
            collected = collect(pairs)
            return (dstate, add(total, collected.total)), collected.by_step

        (dinitial, total), by_step = jax.lax.scan(window, (dstate, zeros), (starts, states, windows), reverse=True)
        return dinitial, Collected(total, _joined(by_step, len(steps.x)))

    def _again(self, params: PyTree, start: Arrays, states: jax.Array | None, steps: Steps) -> tuple[Arrays, Arrays]:
        """Gates and states of a window: from its first state step by step, from all its states at once."""
        if states is None:
            return self._unpack(self._scan(params, start, steps)[1])
        after = self._split(states)
        a = self.cell.project(params, steps.x)
        return self.cell.step(self.cell.loop_weights(params), _before(start, after), a)[1], after

    def _scan_back(
        self, params: PyTree, initial: Arrays, gates: Arrays, after: Arrays, steps: Steps, dstate: Arrays
    ) -> tuple[Arrays, Pairs]:
        """-> (delta of the state before the first step, pairs of whole sequences), time first."""
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

        dinitial, deltas = jax.lax.scan(step, dstate, (steps.dy, steps.mask, steps.cut, slopes), reverse=True)
        return dinitial, self.cell.pairs(steps.x, before, gates, after, slopes, deltas)

    # --- in and out of the loop's order -------------------------------------------------------------------------------

    def _enter(self, inputs: PyTree, dy: jax.Array | None = None) -> Steps:
        x, valid = inputs if isinstance(inputs, tuple) else (inputs, None)
        t = np.arange(x.shape[1])
        mask = None
        if valid is not None:
            if valid.ndim == 1:
                valid = jnp.asarray(t, valid.dtype)[None] < valid[:, None]
            mask = self._inward((valid if valid.dtype == bool else valid > 0.5)[..., None])
        cut = None if self.truncate is None else jnp.asarray((t > 0) & (t % self.truncate == 0))
        x = self._inward(x)
        if mask is not None:
            x = jnp.where(mask, x, 0)  # such a step may hold anything, nan too
        return Steps(x, mask, cut, None if dy is None else self._inward(dy))

    def _inward(self, a: jax.Array) -> jax.Array:
        """[N, T, ...] as it came -> [T, N, ...] in the order of the loop."""
        a = jnp.swapaxes(a, 0, 1)
        return a[::-1] if self.reverse else a

    def _outward(self, a: jax.Array) -> jax.Array:
        """[T, N, ...] in the order of the loop -> [N, T, ...]."""
        return jnp.swapaxes(a[::-1] if self.reverse else a, 0, 1)

    def _split(self, states: jax.Array) -> Arrays:
        """The arrays that lie side by side in [..., arrays * H]."""
        return tuple(jnp.split(states, states.shape[-1] // self.cell.features, -1))

    def _unpack(self, packed: jax.Array) -> tuple[Arrays, Arrays]:
        """-> (gates, states) that lie side by side in [..., G + S]."""
        arrays = self._split(packed)
        return arrays[: self.cell.gates], arrays[self.cell.gates :]

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


def with_carry(model: Layer, positions: int) -> Layer:
    """The same model, whose layers go on from Context.state: the state of cells, and keys and values of attention.

    positions: how many keys and values attention holds. 0: all layers begin every sequence anew. A layer takes part by
    having a field `carry`: a number of positions, or a bool where it needs to know no number.
    """
    carrying = lambda leaf: replace(leaf, carry=type(leaf.carry)(positions)) if hasattr(leaf, "carry") else leaf
    return map_leaves(model, carrying)


def mask_or_normal(key: jax.Array, spec: jax.ShapeDtypeStruct) -> jax.Array:
    """Normal inputs [N, T, D]; flags [N, T] of zeros and ones."""
    if len(spec.shape) == 3:
        return normal(key, spec)
    return jax.random.bernoulli(key, 0.6, spec.shape).astype(spec.dtype)


def _before(initial: Arrays, after: Arrays) -> Arrays:
    """The states before every step, from the initial one and the states after every step."""
    return tuple(jnp.concatenate([first[None], s[:-1]]) for first, s in zip(initial, after, strict=True))


def near_root(count: int, sizes: range) -> int:
    """Of the sizes that cut `count` into windows with the fewest steps to fill up, the one nearest to sqrt(count)."""
    return min(sizes, key=lambda size: (-count % size, abs(size - count**0.5)))


def _windows(steps: Steps) -> Steps:
    """[T, ...] -> [windows, steps, ...]. Without a divisor of T near sqrt(T), steps that do not count fill the last."""
    time = len(steps.x)
    size = near_root(time, range(ceil(time**0.5 / 2), ceil(2 * time**0.5) + 1))
    fill = -time % size
    if fill and steps.mask is None:
        steps = replace(steps, mask=jnp.ones((time, 1, 1), bool))
    pad = lambda a: jnp.pad(a, [(0, fill)] + [(0, 0)] * (a.ndim - 1))
    return jax.tree.map(lambda a: pad(a).reshape(-1, size, *a.shape[1:]), steps)


def _joined(windows: PyTree, time: int) -> PyTree:
    """[windows, steps, ...] -> [T, ...]."""
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:time], windows)
