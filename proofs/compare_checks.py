"""The same planted faults through gradient checks: who catches them, who names the leaf, who names the cause.

    python -m proofs.compare_checks [--count=400] [--json=FILE]

Every check is called as its users call it, ours too. Each fault of a sample (drawn by a seed from the corpus of
`prove_check.py`) becomes what the check takes: a layer with a wrong backward, a gradient function, a function with a
jax.custom_vjp, for PyTorch an autograd.Function of the same arrays. A check of others catches a fault if it raises; it
names the leaf if its message holds the leaf's path, or its number among the inputs. One of ours catches it if the
report fails or an InputError is raised; it names the leaf if that leaf fails and no other. Right functions count too: a
check may not fail them.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.test_util import check_grads

from jaxbp.check import Cause, Report, check_function, check_gradient, check_layer
from jaxbp.check.leaves import Leaves
from jaxbp.check.problem import Problem, Pullback
from jaxbp.commands import cli
from jaxbp.commands.__main__ import guarded
from jaxbp.core import Case, Context, Layer, PyTree, dot, path_name
from jaxbp.errors import InputError
from jaxbp.files import write_json
from jaxbp.machine import machine
from jaxbp.typed import Count, Typed
from proofs.faults import Fault, faults
from proofs.prove_check import equivalent, problem_of, subjects

SEED = 4


class Verdict(NamedTuple):
    """What a check made of one fault."""

    caught: bool
    leaf: bool = False  # named, and no other blamed
    cause: bool = False  # named


@dataclass(frozen=True)
class Subject:
    """A layer's case with its problem, and the faults drawn from it."""

    name: str
    case: Case
    problem: Problem
    planted: tuple[Fault, ...]

    @property
    def right(self) -> Fault:
        """No fault at all."""
        return replace(self.planted[0], name="right", pullback=self.problem.pullback)


# Ours.


@dataclass(frozen=True, eq=False)
class Faulty(Layer):
    """A subject's layer with a fault for its backward. The point where masks are drawn is the subject's own."""

    problem: Problem
    pullback: Pullback

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        return self.problem.layer.init(key, spec)

    def forward(self, params: PyTree, x: PyTree, ctx: Context) -> tuple[PyTree, PyTree]:
        y, _ = self.problem.layer.forward(params, x, self.problem.setting[2])
        return y, x

    def backward(self, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
        flat, structure = jax.tree_util.tree_flatten_with_path({"grads": params, "dx": cache})
        gradient = self.pullback({path_name(path): leaf for path, leaf in flat}, dy)
        tree = jax.tree.unflatten(structure, [gradient.get(path_name(path)) for path, _ in flat])
        return tree["dx"], tree["grads"]


def by_check_layer(subject: Subject, fault: Fault) -> Verdict:
    """check_layer of a layer with the wrong backward."""
    _, x, _ = subject.problem.setting
    spec = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
    layer = Faulty(subject.problem, fault.pullback)
    return _reported(lambda: check_layer(layer, spec, sample=subject.case.sample), fault)


def by_check_gradient(subject: Subject, fault: Fault) -> Verdict:
    """check_gradient of the wrong backward as a gradient function, and <dy, forward> as its loss."""
    problem = subject.problem
    gradient = lambda leaves: fault.pullback(leaves, problem.dy)
    loss = lambda leaves: dot(problem.dy, problem.forward(leaves))
    return _reported(lambda: check_gradient(gradient, loss, problem.leaves), fault)


def by_check_function(subject: Subject, fault: Fault) -> Verdict:
    """check_function of the very function that the checks of others are given. There a missing leaf is zero."""
    function = decorated(subject.problem, fault.pullback)
    planted = replace(fault, cause=Cause.ZERO) if fault.cause is Cause.MISSING else fault
    return _reported(lambda: check_function(function, subject.problem.leaves), planted, "leaves/")


def _reported(check: Callable[[], Report], fault: Fault, prefix: str = "") -> Verdict:
    try:
        report = check()
    except InputError as error:
        return Verdict(True, fault.path in str(error))
    blamed = {leaf.path.removeprefix(prefix) for leaf in report.leaves if not leaf.passed}
    causes = {e.cause for leaf in report.leaves if not leaf.passed for e in leaf.causes}
    leaf = fault.path in blamed and blamed <= fault.spoiled
    return Verdict(not report.passed, leaf, leaf and fault.cause in causes)


# Others.


def decorated(problem: Problem, pullback: Pullback, dtype: type = np.float64) -> Callable[[Leaves], jax.Array]:
    """<dy, forward> with the fault as its custom_vjp: of the leaves, rounded to `dtype` at its ends."""
    doubled = lambda leaves: {k: a.astype(np.float64) for k, a in leaves.items()}
    value = jax.jit(lambda leaves: dot(problem.dy, problem.forward(doubled(leaves))).astype(dtype))

    @jax.custom_vjp
    def function(leaves: Leaves) -> jax.Array:
        return value(leaves)

    def backward(leaves: Leaves, ct: jax.Array) -> tuple[Leaves]:
        gradient = pullback(doubled(leaves), problem.dy)
        fit = lambda k: jnp.zeros_like(leaves[k]) if gradient[k] is None else ct * gradient[k].astype(dtype)
        return ({k: fit(k) for k in leaves},)

    function.defvjp(lambda leaves: (value(leaves), leaves), backward)
    return function


def by_jax(dtype: type) -> Callable[[Subject, Fault], Verdict]:
    """jax.test_util.check_grads with its defaults, reverse mode."""

    def check(subject: Subject, fault: Fault) -> Verdict:
        leaves = {k: a.astype(dtype) for k, a in subject.problem.leaves.items()}
        function = decorated(subject.problem, fault.pullback, dtype)
        return _raised(lambda: check_grads(function, (leaves,), order=1, modes=["rev"]), fault.path)

    return check


def by_chex(subject: Subject, fault: Fault) -> Verdict:
    """chex.assert_numerical_grads, which takes arrays only: it is given the faulty leaf by itself, in float32."""
    function = decorated(subject.problem, fault.pullback, np.float32)
    leaves = jax.tree.map(lambda a: a.astype(np.float32), subject.problem.leaves)
    of_leaf = lambda leaf: function(leaves | {fault.path: leaf})
    check = lambda: chex.assert_numerical_grads(of_leaf, (leaves[fault.path],), order=1, modes=["rev"])
    return _raised(check, fault.path)


def by_torch(subject: Subject, fault: Fault) -> Verdict:
    """torch.autograd.gradcheck with its defaults, in float64."""
    problem = subject.problem
    paths = list(problem.leaves)
    tree = lambda inputs: {k: jnp.asarray(t.detach().numpy()) for k, t in zip(paths, inputs, strict=True)}
    value = decorated(problem, fault.pullback)

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            ctx.save_for_backward(*inputs)
            return torch.tensor(float(value(tree(inputs))), dtype=torch.float64)

        @staticmethod
        def backward(ctx, ct):
            gradient = fault.pullback(tree(ctx.saved_tensors), problem.dy)
            tensor = lambda g: None if g is None else ct * torch.from_numpy(np.array(g))
            return tuple(tensor(gradient[k]) for k in paths)

    inputs = [torch.from_numpy(np.array(problem.leaves[k])).requires_grad_() for k in paths]
    return _raised(lambda: torch.autograd.gradcheck(Function.apply, inputs), f"input {paths.index(fault.path)}")


def _raised(check: Callable[[], object], name: str) -> Verdict:
    """Whether a check raised, and whether its message names the leaf."""
    try:
        check()
    except Exception as error:  # each check raises a kind of its own, and wrong shapes raise others
        return Verdict(True, name in str(error))
    return Verdict(False)


CHECKS: dict[str, Callable[[Subject, Fault], Verdict]] = {
    "jaxbp.check_layer": by_check_layer,
    "jaxbp.check_gradient": by_check_gradient,
    "jaxbp.check_function": by_check_function,
    "jax.test_util.check_grads, float32": by_jax(np.float32),
    "jax.test_util.check_grads, float64": by_jax(np.float64),
    "chex.assert_numerical_grads, float32": by_chex,
    "torch.autograd.gradcheck, float64": by_torch,
}


def sample(count: int) -> list[Subject]:
    """`count` faults, ten from each of a tenth as many layers' cases, all drawn by a fixed seed; those that matter."""
    draw = np.random.default_rng(SEED)
    cases = list(subjects())
    chosen = draw.choice(len(cases), min(len(cases), max(1, count // 10)), replace=False)
    drawn = []
    for name, case in (cases[i] for i in sorted(chosen)):
        problem = problem_of(case)
        problem = replace(problem, pullback=jax.jit(problem.pullback))
        planted = list(faults(problem))
        ten = [planted[i] for i in draw.choice(len(planted), 10, replace=False)]
        right = jax.device_get(problem.pullback(problem.leaves, problem.dy))
        real = [f for f in ten if not equivalent(jax.device_get(f.pullback(problem.leaves, problem.dy)), right)]
        drawn.append(Subject(name, case, problem, tuple(real)))
    return drawn


@dataclass(frozen=True)
class Options(Typed):
    """The options of the program.

    Args:
        count: faults in the sample
        json: also write the table to this file
    """

    count: Count = 400
    json: cli.OutputFile | None = None


def main(words: Sequence[str]) -> int:
    """Compares the checks on the sample that the words ask for, and returns the exit status."""
    options = cli.read_all(Options, words)
    warnings.simplefilter("ignore")
    with jax.enable_x64(True):
        drawn = sample(options.count)
        rows = []
        for name, check in CHECKS.items():
            start = time.perf_counter()
            verdicts = [check(subject, fault) for subject in drawn for fault in subject.planted]
            alarms = sum(check(subject, subject.right).caught for subject in drawn)
            rows.append((name, *map(sum, zip(*verdicts, strict=True)), alarms))
            print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    count = sum(len(subject.planted) for subject in drawn)
    print(f"\n| check | caught, of {count} | leaf named | cause named | right ones failed, of {len(drawn)} |")
    print("|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    if options.json:
        columns = ("check", "caught", "leaf_named", "cause_named", "right_failed")
        table = [dict(zip(columns, row, strict=True)) for row in rows]
        write_json(Path(options.json), {"machine": machine(), "faults": count, "rows": table})
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
