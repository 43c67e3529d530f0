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
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Literal

from jaxbp.check.diagnosis.jaxprs import INLINED, bind, evaluate, inner, place, scan, traced
from jaxbp.check.diagnosis.mistakes import BENT, MISTAKES
from jaxbp.check.report import Cause
from jaxbp.core import PyTree

LARGE = 2**27  # entries of all results together, 1 GiB: beyond that a model is told by its first wrong layer alone


@dataclass(frozen=True)
class Mutant:
    """One mistake: its cause, and what it is in words, with the place in the forward pass."""

    cause: Cause
    text: str


def mutants(forward: Callable[[PyTree], PyTree], leaves: PyTree, dy: PyTree) -> list[tuple[Mutant, PyTree]]:
    """Every mutant of the derivative of <dy, forward(leaves)>, with what it gives (NumPy arrays, like leaves)."""
    closed, _ = traced(forward, leaves)
    book = Book(Counter(operands(closed.jaxpr)))

    def gradient(which: jax.Array, leaves: PyTree, dy: PyTree) -> PyTree:
        book.alive = which
        seen: dict = {}
        evaluate(closed, jax.tree.leaves(leaves), partial(_watch, book, seen))
        run = lambda leaves: evaluate(closed, jax.tree.leaves(leaves), partial(_visit, book, seen))
        return jax.vjp(run, leaves)[1](jax.tree.leaves(dy))[0]

    jax.eval_shape(gradient, jnp.int32(0), leaves, dy)
    if not book.found or len(book.found) * sum(a.size for a in jax.tree.leaves(leaves)) > LARGE:
        return []
    every = jax.jit(
        lambda leaves, dy: jax.lax.map(lambda i: gradient(i, leaves, dy), jnp.arange(len(book.found))),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    results = jax.device_get(every(leaves, dy))
    return [(m, jax.tree.map(lambda a, i=i: a[i], results)) for i, m in enumerate(book.found.values())]


@dataclass
class Book:
    """The mutants met while the program is traced; `alive` is the traced number of the one that is switched on."""

    uses: Counter
    found: dict[tuple[str, str], Mutant] = field(default_factory=dict)
    places: dict[str, tuple[str, str]] = field(default_factory=dict)  # path -> the operation's name, and its place
    lengths: set[int] = field(default_factory=set)  # of loops: an axis so long may be time
    alive: Any = None

    def on(self, path: str, cause: Cause, text: str) -> jax.Array:
        """Whether this mutant is the one alive."""
        key = (path, text)
        self.found.setdefault(key, Mutant(cause, text))
        return self.alive == list(self.found).index(key)

    def dim(self, x: Any, path: str, cause: Cause, text: str, where: Any = True) -> Any:
        """x, whose cotangent this mutant makes zero `where`."""
        return dimmed(x, self.on(path, cause, text) & where) if _floating(x) else x


@jax.custom_vjp
def dimmed(x: jax.Array, dead: jax.Array) -> jax.Array:
    """x; backward, the cotangent is zero where `dead`."""
    return x


@jax.custom_vjp
def crossed(a: jax.Array, b: jax.Array, on: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(a, b); backward, each gets the other's cotangent if `on`."""
    return a, b


dimmed.defvjp(lambda x, dead: (x, dead), lambda dead, ct: (jnp.where(dead, jnp.zeros_like(ct), ct), None))
crossed.defvjp(
    lambda a, b, on: ((a, b), on), lambda on, cts: (jnp.where(on, cts[1], cts[0]), jnp.where(on, cts[0], cts[1]), None)
)


def operands(jaxpr: Any) -> Iterator[Any]:
    """Every use of every variable, calls and loops included."""
    for eqn in jaxpr.eqns:
        yield from (v for v in eqn.invars if not isinstance(v, Literal))
        for held in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda n: hasattr(n, "eqns") or hasattr(n, "jaxpr")
        ):
            if hasattr(held, "eqns") or hasattr(held, "jaxpr"):
                yield from operands(getattr(held, "jaxpr", held))


def _watch(book: Book, seen: dict, eqn: JaxprEqn, inputs: list, path: str) -> list:
    """A plain run that keeps the inputs of what can take another's: bent functions, and products inside a loop."""
    if (held := inner(eqn, INLINED)) is not None:
        return evaluate(held, inputs, partial(_watch, book, seen), path)
    if eqn.primitive.name == "scan":
        book.lengths.add(eqn.params["length"])

        def step(consts: list, carry: list, x: list, extra: None) -> tuple[list, tuple]:
            kept: dict = {}
            found = evaluate(eqn.params["jaxpr"], [*consts, *carry, *x], partial(_watch, book, kept), path)
            return found, (kept, found[: len(carry)])

        out, seen[path] = scan(eqn, inputs, step, None)
        return out
    if eqn.primitive.name in (*BENT, "dot_general"):
        book.places[path] = (eqn.primitive.name, place(eqn))
        seen[path] = jax.lax.stop_gradient(inputs)
    return bind(eqn, *inputs)


def _visit(book: Book, seen: dict, eqn: JaxprEqn, inputs: list, path: str) -> list:
    """The operation, with every mutant of its reverse rule in place."""
    if (held := inner(eqn, INLINED)) is not None:
        return evaluate(held, inputs, partial(_visit, book, seen), path)
    if eqn.primitive.name == "scan":
        return _visit_scan(book, seen, eqn, inputs, path)
    for i, (variable, x) in enumerate(zip(eqn.invars, inputs, strict=True)):
        if not isinstance(variable, Literal) and book.uses[variable] > 1:
            text = f"what flows back through operand {i} of {place(eqn)} is missing"
            inputs = [*inputs[:i], book.dim(x, path, Cause.PATH, text), *inputs[i + 1 :]]
    if eqn.primitive.name == "split":
        return _visit_split(book, eqn, bind(eqn, *inputs), path)
    if not any(_floating(x) for x in inputs) or len(eqn.outvars) != 1 or eqn.primitive.name not in MISTAKES:
        return bind(eqn, *inputs)
    return [_altered(book, seen, eqn, path)(*inputs)]


def _altered(book: Book, seen: dict, eqn: JaxprEqn, path: str) -> Callable[..., jax.Array]:
    kin = lambda k: k.endswith("~") or (k != path and book.places.get(k, ("",))[0] == eqn.primitive.name)
    alive, others = book.alive, {k: v for k, v in seen.items() if not isinstance(v, tuple) and kin(k)}

    @jax.custom_vjp
    def run(alive: jax.Array, others: dict, *inputs: jax.Array) -> jax.Array:
        return bind(eqn, *inputs)[0]

    def backward(kept: tuple, ct: jax.Array) -> tuple:
        alive, others, inputs = kept
        book.alive, outside = alive, book.alive
        out, back = jax.vjp(lambda *inputs: bind(eqn, *inputs)[0], *inputs)
        cts = [None if c.dtype == jax.dtypes.float0 else c for c in back(ct)]
        for cause, text, wrong in MISTAKES[eqn.primitive.name](eqn, list(inputs), out, ct, cts, others, path):
            for other in others:
                text = text.replace(f"<{other}>", book.places.get(other, ("", ""))[1])
            in_time = cause == Cause.DROPPED and out.shape[0] in book.lengths
            on = book.on(path, Cause.LAST_STEP if in_time else cause, f"{text} {place(eqn)}")
            cts = [
                c if c is None or w is None or w.shape != c.shape else jnp.where(on, w, c)
                for c, w in zip(cts, wrong, strict=True)
            ]
        book.alive = outside
        return None, jax.tree.map(jnp.zeros_like, others), *cts

    run.defvjp(lambda alive, others, *inputs: (bind(eqn, *inputs)[0], (alive, others, inputs)), backward)
    return partial(run, alive, others)


def _visit_split(book: Book, eqn: JaxprEqn, pieces: list, path: str) -> list:
    """A split whose pieces get each other's cotangents: gates in another order."""
    for i, j in itertools.combinations(range(len(pieces)), 2):
        if pieces[i].shape == pieces[j].shape and _floating(pieces[i]):
            text = f"pieces {i} and {j} of {place(eqn)} get each other's delta"
            pieces[i], pieces[j] = crossed(pieces[i], pieces[j], book.on(path, Cause.ORDER, text))
    return pieces


def _visit_scan(book: Book, seen: dict, eqn: JaxprEqn, inputs: list, path: str) -> list:
    """A loop: its carry cut, steps left out of a weight's sum, and the activations of the step before or after."""
    length, here = eqn.params["length"], place(eqn)
    first, last = (length - 1, 0) if eqn.params["reverse"] else (0, length - 1)

    def step(consts: list, carry: list, x: list, extra: tuple) -> tuple[list, None]:
        t, near = extra
        ends = (
            (Cause.LAST_STEP, "the last step's part is left out", t == last),
            (Cause.LAST_STEP, "the first step's part is left out", t == first),
            (Cause.OVERWRITTEN, "only the first step's part counts", t != first),
            (Cause.OVERWRITTEN, "only the last step's part counts", t != last),
        )
        for i, (cause, text, where) in itertools.product(range(len(consts)), ends):
            consts = [*consts]
            consts[i] = book.dim(consts[i], f"{path}k{i}", cause, f"{text} for constant {i} of {here}", where)
        cut = "the delta of carry {} does not go to the step before, in"
        carry = [book.dim(c, f"{path}c{i}", Cause.PATH, f"{cut.format(i)} {here}") for i, c in enumerate(carry)]
        return evaluate(eqn.params["jaxpr"], [*consts, *carry, *x], partial(_visit, book, near), path), None

    out = scan(eqn, inputs, step, (jnp.arange(length), _near(eqn, seen[path], path)))[0]
    for i in range(eqn.params["num_carry"], len(out)):
        rows = jnp.arange(length).reshape(-1, *[1] * (out[i].ndim - 1))
        for where, text in (
            (rows == last, "the last step's output does not count"),
            (rows == first, "the first does not"),
        ):
            out[i] = book.dim(out[i], f"{path}y{i}", Cause.LAST_STEP, f"{text} in {here}", where)
        text = f"only the last step's output counts in {here}"
        out[i] = book.dim(out[i], f"{path}y{i}", Cause.OVERWRITTEN, text, rows != last)
    return out


def _near(eqn: JaxprEqn, seen: tuple[dict, list], path: str) -> dict[str, list]:
    """For every product in a loop, its inputs one step before and after: rolled, pushed, and a carry as it leaves."""
    kept, after = seen
    first = eqn.params["num_consts"]
    carries = list(eqn.params["jaxpr"].jaxpr.invars[first : first + len(after)])
    body = eqn.params["jaxpr"].jaxpr.eqns
    near = {}
    for name, inputs in kept.items():
        number = name.removeprefix(f"{path}/")
        if isinstance(inputs, tuple) or not number.isdigit() or body[int(number)].primitive.name != "dot_general":
            continue
        variables = body[int(number)].invars
        leaving = [
            after[carries.index(v)] if v in carries else jnp.roll(a, -1, 0)
            for v, a in zip(variables, inputs, strict=True)
        ]
        pushed = lambda a, s: jnp.roll(a, s, 0).at[0 if s > 0 else -1].set(0)
        near[f"{name}~"] = [
            jnp.stack([jnp.roll(a, 1, 0), pushed(a, 1), out, pushed(a, -1)], 1)
            for a, out in zip(inputs, leaving, strict=True)
        ]
    return near


def _floating(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)
