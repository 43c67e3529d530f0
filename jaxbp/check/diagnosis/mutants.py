"""A function's derivative with one step of its program differentiated wrongly: the stock of what may have gone wrong.

JAX turns a forward pass into a list of primitive operations. Here that list is run again with the reverse rule of
one piece replaced (`mistakes`, `slopes`), or a path cut, for every piece and every mistake. A wrong hand-written
gradient that equals one of the results has its cause named, with the line of the forward pass. A mistake of a line
that runs several times, in a loop or in every layer, acts at all its places at once. One compiled program holds all
mutants: a row of switches chooses the one that is alive.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check.diagnosis.book import CARRIED, Book
from jaxbp.check.diagnosis.flow import REDUCTIONS, RESHAPES, Flow, Op, Piece
from jaxbp.check.diagnosis.jaxprs import bind, scan
from jaxbp.check.diagnosis.mistakes import MISTAKES, Mistake, Site, partners
from jaxbp.check.diagnosis.neighbours import (
    Neighbours,
    Seen,
    crossing,
    in_place,
    loop_steps,
    same_kind,
    stepped,
    unrolled_steps,
    unstrided,
    window,
    with_partners,
)
from jaxbp.check.diagnosis.patterns import same
from jaxbp.check.diagnosis.rows import run_rows
from jaxbp.check.diagnosis.slopes import INPUT, NONLINEAR, OUTPUT, misplaced, slopes
from jaxbp.check.leaves import Arrays, Leaves
from jaxbp.check.report import Cause, Explanation
from jaxbp.core import PyTree

LARGE = 2**27  # entries of all results together, 1 GiB: above that only the first wrong layer of a model is explained
TOGETHER = 2**24  # entries of the results of the mutants that run at once
SWITCHES = 2**13
STATISTIC = "the path through the"
PRODUCTS = ("dot_general", "mul")


def mutants(flow: Flow, leaves: Leaves, dy: PyTree, true: Arrays | None = None) -> list[tuple[Explanation, Arrays]]:
    """Every mutant of the derivative of <dy, flow(leaves)>, with what it gives.

    true: the right derivative. With it, the mutants are the rarer ones, in which something else stands for a factor.
    """
    book = Book()

    def gradient(switches: jax.Array, leaves: PyTree, dy: PyTree, true: PyTree) -> PyTree:
        seen = _seen(flow, jax.tree.leaves(leaves), "")
        names = dict(zip(flow.inputs, leaves, strict=True))
        after = {n: leaves[name] - true[name] for n, name in names.items()} if true else {}
        mutated = Mutated(book, switches, bool(true), names, after)
        run = lambda leaves: mutated.run(flow, jax.tree.leaves(leaves), "", seen)
        return jax.vjp(run, leaves)[1](jax.tree.leaves(dy))[0]

    inputs = (leaves, dy, true or {})
    closed, shape = jax.make_jaxpr(gradient, return_shape=True)(np.zeros(SWITCHES, bool), *inputs)
    alive = book.mutants()
    size = sum(a.size for a in leaves.values())
    if not alive or len(alive) * size > LARGE:
        return []
    rows = np.zeros((len(alive) + 1, SWITCHES), bool)  # in the last one all is right
    for row, (_, switches) in zip(rows, alive, strict=False):
        row[list(switches)] = True
    host = jax.device_get(jax.tree.leaves(inputs))
    parts = [run_rows(closed, part, host) for part in np.array_split(rows, -(-len(rows) * size // TOGETHER))]
    results = jax.tree.unflatten(
        jax.tree.structure(shape), [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    )
    gradients = [{path: a[i] for path, a in results.items()} for i in range(len(rows))]
    right = gradients.pop()
    own = {
        explanation.text.replace(OUTPUT, INPUT)
        for (explanation, _), given in zip(alive, gradients, strict=True)
        if OUTPUT in explanation.text and all(same(a, right[path], 1e-12) for path, a in given.items())
    }
    at_input = lambda e: (
        Explanation(Cause.POINT, e.text) if e.text in own else e
    )  # the right formula at the wrong point
    return [(at_input(explanation), given) for (explanation, _), given in zip(alive, gradients, strict=True)]


def _seen(flow: Flow, inputs: list, path: str) -> Seen:
    """All values of the forward pass."""
    values = flow.constants | dict(zip(flow.inputs, inputs, strict=True))
    seen = Seen(values, {}, [])
    for i, op in enumerate(flow.ops):
        operands = [seen.read(ref) for ref in op.inputs]
        if op.body is None:
            outputs = bind(op.eqn, *operands)
        else:
            outputs, seen.loops[f"{path}/{i}"] = scan(op.eqn, operands, partial(_step, op.body, f"{path}/{i}"), None)
        values |= dict(zip(op.outputs, outputs, strict=True))
    return seen


def _step(body: Flow, path: str, consts: list, carry: list, x: list, extra: None) -> tuple[list, Seen]:
    seen = _seen(body, [*consts, *carry, *x], path)
    outputs = [seen.read(ref) for ref in body.outputs]
    return outputs, Seen(seen.values, seen.loops, outputs[: len(carry)])


def pieces_of(flow: Flow) -> list[Piece]:
    """The written-out functions, then the operations one by one."""
    inputs = lambda op: tuple(dict.fromkeys(ref for ref in op.inputs if isinstance(ref, int)))
    known = [op for op in flow.ops if len(op.outputs) == 1 and op.name in (*MISTAKES, *NONLINEAR)]
    single = [Piece((op,), inputs(op), op.outputs[0]) for op in known]
    return [p for p in [*flow.pieces, *single] if p.output in flow.dominators and flow.floating(p.output)]


def is_slope(flow: Flow, piece: Piece) -> bool:
    return len(piece.ops) > 1 or (piece.last.name in NONLINEAR and piece.output not in flow.inside)


@dataclass(frozen=True)
class Mutated:
    """The forward pass with every mutant in place; backward, those whose switches are on act."""

    book: Book
    switches: jax.Array
    rare: bool  # the mutants in which something else stands for a factor, and no others
    names: dict[int, str]  # of leaves
    after: dict[int, jax.Array]  # leaves after a step
    steps: dict[int, Neighbours] = field(default_factory=dict)  # of a loop's products, by their index

    def run(self, flow: Flow, inputs: list, path: str, seen: Seen) -> list:
        """The outputs of the flow."""
        values = flow.constants | dict(zip(flow.inputs, inputs, strict=True))
        pieces = pieces_of(flow)
        ending: dict[int, list[Piece]] = {}
        for piece in pieces:
            ending.setdefault(piece.output, []).append(piece)
        read = lambda ref: values[ref] if isinstance(ref, int) else ref.val
        for i, op in enumerate(flow.ops):
            here = f"{path}/{i}"
            operands = self._with_cuts(flow, op, [read(ref) for ref in op.inputs], here)
            outputs = bind(op.eqn, *operands) if op.body is None else self._scan(op, operands, here, seen.loops[here])
            if op.name == "split" and not self.rare:
                outputs = self._split(op, outputs, here)
            if op.name in REDUCTIONS:
                outputs = [self._cut(outputs[0], f"{here}r", op, Cause.PATH, statistic(flow, op))]
            values |= dict(zip(op.outputs, outputs, strict=True))
            for k, piece in enumerate(ending.get(op.outputs[0], ()) if op.outputs else ()):
                neighbours = self._neighbours(flow, piece, i, pieces, seen)
                if not self.rare or neighbours.roles or len(piece.ops) == 1:
                    operands = [values[ref] for ref in piece.inputs if isinstance(ref, int)]
                    hook = self._hooked(flow, piece, f"{here}p{k}")
                    values[piece.output] = hook(self.switches, neighbours, values[piece.output], *operands)
        self._combine(flow)
        return [read(ref) for ref in flow.outputs]

    def _with_cuts(self, flow: Flow, op: Op, operands: list, path: str) -> list:
        """The operands of an operation; the paths through those that are read elsewhere too may be missing."""
        for k, ref in enumerate(op.inputs):
            if not isinstance(ref, int) or ref not in flow.dominators or op.name in REDUCTIONS:
                continue
            if flow.carried(op, k):
                sum_so_far = not np.ndim(operands[k])  # such as the loss
                words = f"the sum so far does not count, operand {k} of" if sum_so_far else f"{CARRIED} {k} of"
                operands[k] = self._cut(operands[k], path, op, Cause.PATH, words)
            elif len(flow.users[ref]) + flow.outputs.count(ref) > 1:
                words = self._one_use(op, ref, k)
                operands[k] = self._cut(operands[k], path, op, Cause.PATH, words)
        return operands

    def _one_use(self, op: Op, ref: int, k: int) -> str:
        """The words for a value that is read several times, and once for nothing."""
        if ref in self.names:
            return f"one use of {self.names[ref]} (tied, or in several steps) is not counted, as operand {k} of"
        skip = "the skip (residual) path" if op.name in ("add", "sub") else "what flows back"
        return f"{skip} through operand {k} is left out of"

    def _combine(self, flow: Flow) -> None:
        """Changes that are made together: several statistics of a norm, pieces that take each other's place."""
        for piece in flow.pieces:
            statistics = [(statistic(flow, op), op.stack) for op in piece.ops if op.name in REDUCTIONS]
            self.book.combine(statistics, range(2, len(statistics) + 1) if len(statistics) <= 3 else [len(statistics)])
        for op in flow.ops:
            parts = flow.parts(op) if op.name == "slice" else []
            for (i, one), (j, other) in itertools.combinations(enumerate(parts), 2):
                self.book.combine([(crossing(i, j), one.stack), (crossing(j, i), other.stack)], [2])

    def _cut(self, x: Any, path: str, op: Op, cause: Cause, words: str, where: Any = True) -> Any:
        """x; backward, this mutant makes the cotangent zero `where`."""
        if self.rare or not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            return x
        return cut(x, self.switches[self.book.number(path, cause, words, op)] & where)

    def _split(self, op: Op, pieces: list, path: str) -> list:
        """A split whose pieces get each other's cotangents: gates in another order."""
        for j in range(len(pieces)):
            for i in range(j):
                if (
                    not self.rare
                    and pieces[i].shape == pieces[j].shape
                    and jnp.issubdtype(pieces[i].dtype, jnp.floating)
                ):
                    words = f"pieces {i} and {j} get each other's delta in"
                    on = self.switches[self.book.number(path, Cause.ORDER, words, op)]
                    pieces[i], pieces[j] = crossed(pieces[i], pieces[j], on)
        return pieces

    def _scan(self, op: Op, inputs: list, path: str, loop: Seen) -> list:
        """A loop: a carry cut, steps left out of a constant's or an output's sum, products that meet another step."""
        assert op.body is not None
        body, length = op.body, op.eqn.params["length"]
        self.book.lengths.add(length)
        first, last = (length - 1, 0) if op.eqn.params["reverse"] else (0, length - 1)

        def step(consts: list, carry: list, x: list, extra: tuple) -> tuple[list, None]:
            t, steps, seen = extra
            parts = (
                (Cause.LAST_STEP, "the last step's part is left out", t == last),
                (Cause.LAST_STEP, "the first step's part is left out", t == first),
                (Cause.OVERWRITTEN, "only the first step's part counts", t != first),
                (Cause.OVERWRITTEN, "only the last step's part counts", t != last),
            )
            consts = [*consts]
            for i in range(len(consts)):
                for cause, words, where in parts:
                    words = f"{words} for constant {i} of"
                    consts[i] = self._cut(consts[i], f"{path}k{i}", op, cause, words, where)
            carry = [*carry]
            for i, c in enumerate(carry):
                words = f"the delta of carry {i} does not go to the step before, in"
                carry[i] = self._cut(c, f"{path}c{i}", op, Cause.PATH, words)
            constants = zip(body.inputs, op.inputs[: len(consts)], strict=False)
            inner = {number: ref for number, ref in constants if isinstance(ref, int)}
            names = {number: self.names[ref] for number, ref in inner.items() if ref in self.names}
            after = {number: self.after[ref] for number, ref in inner.items() if ref in self.after}
            inside = replace(self, steps=steps, names=names, after=after)
            return inside.run(body, [*consts, *carry, *x], path, seen), None

        extra = (jnp.arange(length), loop_steps(op, loop), loop)
        outputs = scan(op.eqn, inputs, step, extra)[0]
        for i in range(op.eqn.params["num_carry"], len(outputs)):
            row = jnp.arange(length).reshape(-1, *[1] * (outputs[i].ndim - 1))
            for cause, words, where in (
                (Cause.LAST_STEP, "the last step's output does not count in", row == last),
                (Cause.LAST_STEP, "the first step's output does not count in", row == first),
                (Cause.OVERWRITTEN, "only the last step's output counts in", row != last),
            ):
                outputs[i] = self._cut(outputs[i], f"{path}y{i}", op, cause, words, where)
        return outputs

    def _neighbours(self, flow: Flow, piece: Piece, index: int, pieces: list[Piece], seen: Seen) -> Neighbours:
        op = piece.last
        if len(piece.ops) == 1 and op.name in PRODUCTS and len(piece.inputs) == len(op.inputs) == 2:
            if not self.rare:
                return self.steps.get(index) or with_partners(list(unrolled_steps(flow, op, seen)))
            others = in_place(flow, op, seen, self.names)
            return with_partners([*stepped(flow, op, self.after), *unstrided(flow, op, seen), *others])
        if self.rare:
            return Neighbours()
        if op.name == "slice":
            return window(flow, op)
        return same_kind(flow, piece, pieces, seen) if is_slope(flow, piece) else Neighbours()

    def _hooked(self, flow: Flow, piece: Piece, path: str) -> Callable[..., jax.Array]:
        """hook(switches, neighbours, out, *inputs) -> out; backward, a mistake that is on takes the cotangent's way."""

        @jax.custom_vjp
        def hook(switches: jax.Array, neighbours: Neighbours, out: jax.Array, *inputs: jax.Array) -> jax.Array:
            return out

        def forward(switches: jax.Array, neighbours: Neighbours, out: jax.Array, *inputs: jax.Array) -> tuple:
            return out, (switches, neighbours, out, inputs)

        def backward(kept: tuple, ct: jax.Array) -> tuple:
            switches, neighbours, out, inputs = kept
            right = jax.vjp(piece.run, *inputs)[1](ct)
            cts = [None if c.dtype == jax.dtypes.float0 else c for c in right]
            total = [None if c is None else jnp.zeros_like(c) for c in cts]
            anything = jnp.zeros((), bool)
            for cause, words, wrong in self._mistakes(flow, Site(piece, list(inputs), neighbours, out, ct, cts)):
                in_time = cause == Cause.DROPPED and not self.book.lengths.isdisjoint(out.shape[:1])
                on = switches[self.book.number(path, Cause.LAST_STEP if in_time else cause, words, piece)]
                total = [_chosen(on, w, r, t) for w, r, t in zip(wrong, cts, total, strict=True)]
                anything |= on
            return None, None, jnp.where(anything, jnp.zeros_like(ct), ct), *total

        hook.defvjp(forward, backward)
        return hook

    def _mistakes(self, flow: Flow, site: Site) -> Iterator[Mistake]:
        name = site.piece.last.name
        if self.rare:
            yield from partners(site)
            if name in ("dot_general", "add") and flow.is_end(site.piece.output):
                yield from misplaced(site)
            return
        if is_slope(flow, site.piece):
            yield from slopes(site)
        elif name in NONLINEAR:
            yield Cause.DERIVATIVE, "the derivative is left out of", site.passed_on()
        if len(site.piece.ops) == 1 and name in MISTAKES:
            yield from MISTAKES[name](site)


def statistic(flow: Flow, op: Op) -> str:
    """The words for a statistic of rows that is held for a constant."""
    users = flow.users[op.outputs[0]]
    while len(users) == 1 and users[0].name in RESHAPES:
        users = flow.users[users[0].outputs[0]]
    averaged = any(user.name == "div" and flow.uniform(user.inputs[1]) for user in users)
    what = "maximum" if op.name in ("reduce_max", "reduce_min") else "mean (a projection)" if averaged else "row sum"
    return f"{STATISTIC} {what} is left out of"


def _chosen(on: jax.Array, wrong: jax.Array | None, right: jax.Array | None, off: jax.Array | None) -> jax.Array | None:
    if right is None or off is None:
        return None
    return jnp.where(on, right if wrong is None or wrong.shape != right.shape else wrong, off)


@jax.custom_vjp
def cut(x: jax.Array, dead: jax.Array) -> jax.Array:
    """x; backward, the cotangent is zero where `dead`."""
    return x


@jax.custom_vjp
def crossed(a: jax.Array, b: jax.Array, on: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(a, b); backward, each gets the other's cotangent if `on`."""
    return a, b


def _crossed_back(on: jax.Array, cts: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, None]:
    return jnp.where(on, cts[1], cts[0]), jnp.where(on, cts[0], cts[1]), None


cut.defvjp(lambda x, dead: (x, dead), lambda dead, ct: (jnp.where(dead, jnp.zeros_like(ct), ct), None))
crossed.defvjp(lambda a, b, on: ((a, b), on), _crossed_back)
