"""A function's derivative with one step of its program differentiated wrongly: the stock of what may have gone wrong.

JAX turns a forward pass into a list of primitive operations. Here that list is run again with the reverse rule of
one operation replaced (`mistakes`), or a path cut, for every operation and every mistake. A wrong hand-written
gradient that equals one of the results has its cause named, with the line of the forward pass. One compiled program
holds all mutants: an index chooses the one that is alive.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Literal

from jaxbp.check.diagnosis.jaxprs import INLINED, bind, evaluate, inner, place, scan, traced
from jaxbp.check.diagnosis.mistakes import MISTAKES, NONLINEAR, Neighbours, Site
from jaxbp.check.report import Cause, Explanation
from jaxbp.core import PyTree

LARGE = 2**27  # entries of all results together, 1 GiB: above that only the first wrong layer of a model is explained


def mutants(forward: Callable[[PyTree], PyTree], leaves: PyTree, dy: PyTree) -> list[tuple[Explanation, PyTree]]:
    """Every mutant of the derivative of <dy, forward(leaves)>, with what it gives (NumPy arrays, like leaves)."""
    closed, _ = traced(forward, leaves)
    book = Book(Counter(operands(closed.jaxpr)))

    def gradient(alive: jax.Array, leaves: PyTree, dy: PyTree) -> PyTree:
        seen = Seen({}, {})
        evaluate(closed, jax.tree.leaves(leaves), partial(_watch, book, seen))
        mutated = Mutated(book, alive, seen)
        run = lambda leaves: evaluate(closed, jax.tree.leaves(leaves), mutated.visit)
        return jax.vjp(run, leaves)[1](jax.tree.leaves(dy))[0]

    jax.eval_shape(gradient, jnp.int32(0), leaves, dy)
    count = len(book.mutants)
    if not count or count * sum(a.size for a in jax.tree.leaves(leaves)) > LARGE:
        return []
    every = jax.jit(
        lambda leaves, dy: jax.lax.map(lambda alive: gradient(alive, leaves, dy), jnp.arange(count)),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    results = jax.device_get(every(leaves, dy))
    return [(mutant, jax.tree.map(lambda a, i=i: a[i], results)) for i, mutant in enumerate(book.mutants)]


@dataclass
class Book:
    """What is recorded while the program is traced: the mutants by number, and what their words need."""

    uses: Counter  # of every variable
    mutants: list[Explanation] = field(default_factory=list)
    numbers: dict[tuple[str, str], int] = field(default_factory=dict)  # (path, words) -> the mutant's number
    places: dict[str, tuple[str, str]] = field(default_factory=dict)  # path -> the operation's name, and its place
    lengths: set[int] = field(default_factory=set)  # of loops: an axis of that length may be time

    def number(self, path: str, cause: Cause, text: str) -> int:
        """The mutant's number. Tracing meets each one several times; it keeps its first number."""
        if (path, text) not in self.numbers:
            self.numbers[path, text] = len(self.mutants)
            self.mutants.append(Explanation(cause, text))
        return self.numbers[path, text]


class Seen(NamedTuple):
    """What the forward pass leaves of the operations that others may be confused with, by path."""

    inputs: dict[str, list]
    loops: dict[str, Loop]


class Loop(NamedTuple):
    """What a loop leaves, with one entry a step."""

    seen: Seen
    carries: list  # as they leave the step


def operands(jaxpr: Any) -> Iterator[Any]:
    """Every use of every variable, calls and loops included."""
    holds = lambda node: hasattr(node, "eqns") or hasattr(node, "jaxpr")
    for eqn in jaxpr.eqns:
        yield from (v for v in eqn.invars if not isinstance(v, Literal))
        for held in filter(holds, jax.tree.leaves(list(eqn.params.values()), is_leaf=holds)):
            yield from operands(getattr(held, "jaxpr", held))


def _watch(book: Book, seen: Seen, eqn: JaxprEqn, inputs: list, path: str) -> list:
    """The operation, its inputs kept if they may be taken for another's."""
    if (held := inner(eqn, INLINED)) is not None:
        return evaluate(held, inputs, partial(_watch, book, seen), path)
    if eqn.primitive.name == "scan":
        book.lengths.add(eqn.params["length"])

        def step(consts: list, carry: list, x: list, extra: None) -> tuple[list, Loop]:
            kept = Seen({}, {})
            outputs = evaluate(eqn.params["jaxpr"], [*consts, *carry, *x], partial(_watch, book, kept), path)
            return outputs, Loop(kept, outputs[: len(carry)])

        outputs, seen.loops[path] = scan(eqn, inputs, step, None)
        return outputs
    if eqn.primitive.name in (*NONLINEAR, "dot_general"):
        book.places[path] = (eqn.primitive.name, place(eqn))
        seen.inputs[path] = jax.lax.stop_gradient(inputs)
    return bind(eqn, *inputs)


@dataclass(frozen=True)
class Mutated:
    """The forward pass with every mutant in place; backward, the one whose number is `alive` acts."""

    book: Book
    alive: jax.Array
    seen: Seen
    steps: dict[str, tuple[list, ...]] = field(default_factory=dict)  # products of the loop: `Neighbours.steps`

    def visit(self, eqn: JaxprEqn, inputs: list, path: str) -> list:
        """The operation, with every mutant of its reverse rule."""
        if (held := inner(eqn, INLINED)) is not None:
            return evaluate(held, inputs, self.visit, path)
        name = eqn.primitive.name
        if name == "scan":
            return self._scan(eqn, inputs, path)
        for i, variable in enumerate(eqn.invars):
            if not isinstance(variable, Literal) and self.book.uses[variable] > 1:
                text = f"what flows back through operand {i} of {place(eqn)} is missing"
                inputs = [*inputs[:i], self._cut(inputs[i], path, Cause.PATH, text), *inputs[i + 1 :]]
        if name == "split":
            return self._split(eqn, inputs, path)
        if name not in MISTAKES or len(eqn.outvars) != 1 or not any(_floating(x) for x in inputs):
            return bind(eqn, *inputs)
        return [_altered(self.book, eqn, path)(self.alive, self._neighbours(eqn, path), *inputs)]

    def _cut(self, x: Any, path: str, cause: Cause, text: str, where: Any = True) -> Any:
        """x; backward, this mutant makes the cotangent zero `where`."""
        return cut(x, (self.alive == self.book.number(path, cause, text)) & where) if _floating(x) else x

    def _split(self, eqn: JaxprEqn, inputs: list, path: str) -> list:
        """A split whose pieces get each other's cotangents: gates in another order."""
        pieces = bind(eqn, *inputs)
        for i, j in itertools.combinations(range(len(pieces)), 2):
            if pieces[i].shape == pieces[j].shape and _floating(pieces[i]):
                text = f"pieces {i} and {j} of {place(eqn)} get each other's delta"
                on = self.alive == self.book.number(path, Cause.ORDER, text)
                pieces[i], pieces[j] = crossed(pieces[i], pieces[j], on)
        return pieces

    def _scan(self, eqn: JaxprEqn, inputs: list, path: str) -> list:
        """A loop: a carry cut, steps left out of a constant's or an output's sum, products that meet another step."""
        length = eqn.params["length"]
        here = place(eqn)
        first, last = (length - 1, 0) if eqn.params["reverse"] else (0, length - 1)

        def step(consts: list, carry: list, x: list, extra: tuple) -> tuple[list, None]:
            t, steps, loops = extra
            parts = (
                (Cause.LAST_STEP, "the last step's part is left out", t == last),
                (Cause.LAST_STEP, "the first step's part is left out", t == first),
                (Cause.OVERWRITTEN, "only the first step's part counts", t != first),
                (Cause.OVERWRITTEN, "only the last step's part counts", t != last),
            )
            consts = [*consts]
            for i, (cause, text, where) in itertools.product(range(len(consts)), parts):
                consts[i] = self._cut(consts[i], f"{path}k{i}", cause, f"{text} for constant {i} of {here}", where)
            carry = [*carry]
            for i, c in enumerate(carry):
                text = f"the delta of carry {i} does not go to the step before, in {here}"
                carry[i] = self._cut(c, f"{path}c{i}", Cause.PATH, text)
            inside = replace(self, seen=Seen({}, loops), steps=steps)
            return evaluate(eqn.params["jaxpr"], [*consts, *carry, *x], inside.visit, path), None

        loop = self.seen.loops[path]
        outputs = scan(eqn, inputs, step, (jnp.arange(length), _other_steps(eqn, loop, path), loop.seen.loops))[0]
        for i in range(eqn.params["num_carry"], len(outputs)):
            row = jnp.arange(length).reshape(-1, *[1] * (outputs[i].ndim - 1))
            for cause, text, where in (
                (Cause.LAST_STEP, "the last step's output does not count", row == last),
                (Cause.LAST_STEP, "the first step's output does not count", row == first),
                (Cause.OVERWRITTEN, "only the last step's output counts", row != last),
            ):
                outputs[i] = self._cut(outputs[i], f"{path}y{i}", cause, f"{text} in {here}", where)
        return outputs

    def _neighbours(self, eqn: JaxprEqn, path: str) -> Neighbours:
        places = self.book.places
        others = [other for other in self.seen.inputs if other != path and places[other][0] == eqn.primitive.name]
        same_kind = tuple(self.seen.inputs[other] for other in others)
        return Neighbours(same_kind, tuple(places[other][1] for other in others), self.steps.get(path, ()))


def _altered(book: Book, eqn: JaxprEqn, path: str) -> Callable[..., jax.Array]:
    """run(alive, neighbours, *inputs): the operation; backward, the cotangents of the mutant that is alive."""

    @jax.custom_vjp
    def run(alive: jax.Array, neighbours: Neighbours, *inputs: jax.Array) -> jax.Array:
        return bind(eqn, *inputs)[0]

    def forward(alive: jax.Array, neighbours: Neighbours, *inputs: jax.Array) -> tuple:
        return bind(eqn, *inputs)[0], (alive, neighbours, inputs)

    def backward(kept: tuple, ct: jax.Array) -> tuple:
        alive, neighbours, inputs = kept
        out, back = jax.vjp(lambda *inputs: bind(eqn, *inputs)[0], *inputs)
        cts = [None if c.dtype == jax.dtypes.float0 else c for c in back(ct)]
        for cause, text, wrong in MISTAKES[eqn.primitive.name](Site(eqn, list(inputs), neighbours, out, ct, cts)):
            in_time = cause == Cause.DROPPED and out.shape[0] in book.lengths
            number = book.number(path, Cause.LAST_STEP if in_time else cause, f"{text} {place(eqn)}")
            cts = [_chosen(alive == number, w, c) for w, c in zip(wrong, cts, strict=True)]
        return None, None, *cts

    run.defvjp(forward, backward)
    return run


def _chosen(on: jax.Array, wrong: jax.Array | None, right: jax.Array | None) -> jax.Array | None:
    if right is None or wrong is None or wrong.shape != right.shape:
        return right
    return jnp.where(on, wrong, right)


def _other_steps(eqn: JaxprEqn, loop: Loop, path: str) -> dict[str, tuple[list, ...]]:
    """For every product in a loop, its inputs at the steps before and after, in the order of `mistakes.STEPS`."""
    body = eqn.params["jaxpr"].jaxpr
    first = eqn.params["num_consts"]
    leaving = dict(zip(body.invars[first : first + len(loop.carries)], loop.carries, strict=True))
    steps: dict[str, tuple[list, ...]] = {}
    for i, operation in enumerate(body.eqns):
        if operation.primitive.name == "dot_general":
            inputs = loop.seen.inputs[f"{path}/{i}"]
            turned = [jnp.roll(a, 1, 0) for a in inputs]
            before = [a.at[0].set(0) for a in turned]
            after = [leaving.get(v, jnp.roll(a, -1, 0)) for v, a in zip(operation.invars, inputs, strict=True)]
            ended = [jnp.roll(a, -1, 0).at[-1].set(0) for a in inputs]
            steps[f"{path}/{i}"] = (turned, before, after, ended)
    return steps


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


def _floating(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)
