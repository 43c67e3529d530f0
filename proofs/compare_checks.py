"""The same planted faults through other gradient checks: who catches them, and who names the leaf.

    python -m proofs.compare_checks [--count=400] [--json=FILE]

Each fault of a sample (drawn by a seed from the corpus of `prove_check.py`) becomes a function with a jax.custom_vjp,
and for PyTorch an autograd.Function of the same arrays. A check catches it if it raises; it names the leaf if its
message holds the leaf's path, or its number among the inputs. Right functions count too: a check may not fail them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import app, flags
from jax.test_util import check_grads

from jaxbp.check.leaves import Leaves
from jaxbp.check.problem import Problem
from jaxbp.core import dot
from jaxbp.files import write_json
from jaxbp.machine import machine
from proofs.faults import Fault, faults
from proofs.prove_check import Outcome, problem_of, subjects

flags.DEFINE_integer("count", 400, "faults in the sample")
flags.DEFINE_string("json", None, "also write the table to this file")
SEED = 4
Verdict = tuple[bool, bool]  # caught, named


def decorated(problem: Problem, pullback: Callable, dtype: type = np.float64) -> Callable[[Leaves], jax.Array]:
    """<dy, forward> with the fault as its custom_vjp: of the leaves, rounded to `dtype` at its ends."""
    doubled = lambda leaves: {k: a.astype(np.float64) for k, a in leaves.items()}
    value = jax.jit(lambda leaves: dot(problem.dy, problem.forward(doubled(leaves))).astype(dtype))

    @jax.custom_vjp
    def function(leaves: Leaves) -> jax.Array:
        return value(leaves)

    def backward(leaves: Leaves, ct: jax.Array) -> tuple[Leaves]:
        found = pullback(doubled(leaves), problem.dy)
        fit = lambda k: jnp.zeros_like(leaves[k]) if found[k] is None else ct * found[k].astype(dtype)
        return ({k: fit(k) for k in leaves},)

    function.defvjp(lambda leaves: (value(leaves), leaves), backward)
    return function


def by_jax(problem: Problem, fault: Fault, dtype: type) -> Verdict:
    """jax.test_util.check_grads with its defaults, reverse mode."""
    leaves = {k: a.astype(dtype) for k, a in problem.leaves.items()}
    function = decorated(problem, fault.pullback, dtype)
    return _raised(lambda: check_grads(function, (leaves,), order=1, modes=["rev"]), fault.path)


def by_chex(problem: Problem, fault: Fault) -> Verdict:
    """chex.assert_numerical_grads, which takes arrays only: it is given the faulty leaf alone, in float32."""
    function = decorated(problem, fault.pullback, np.float32)
    leaves = jax.tree.map(lambda a: a.astype(np.float32), problem.leaves)
    alone = lambda leaf: function(leaves | {fault.path: leaf})
    check = lambda: chex.assert_numerical_grads(alone, (leaves[fault.path],), order=1, modes=["rev"])
    return _raised(check, fault.path)


def by_torch(problem: Problem, fault: Fault) -> Verdict:
    """torch.autograd.gradcheck with its defaults, in float64."""
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
            found = fault.pullback(tree(ctx.saved_tensors), problem.dy)
            return tuple(None if found[k] is None else ct * torch.from_numpy(np.array(found[k])) for k in paths)

    inputs = [torch.from_numpy(np.array(problem.leaves[k])).requires_grad_() for k in paths]
    return _raised(lambda: torch.autograd.gradcheck(Function.apply, inputs), f"input {paths.index(fault.path)}")


def _raised(check: Callable[[], object], name: str) -> Verdict:
    """Whether a check raised, and whether its message names the leaf."""
    try:
        check()
    except Exception as error:  # each check raises a kind of its own, and wrong shapes raise others
        return True, name in str(error)
    return False, False


def sample(count: int) -> list[tuple[str, Problem, Fault]]:
    """`count` faults of as many layers' cases as there are tens of them, all drawn by a fixed seed."""
    draw, found = np.random.default_rng(SEED), []
    cases = list(subjects())
    chosen = draw.choice(len(cases), min(len(cases), max(1, count // 10)), replace=False)
    for name, case in (cases[i] for i in sorted(chosen)):
        problem = problem_of(case)
        problem = replace(problem, pullback=jax.jit(problem.pullback))
        planted = list(faults(problem))
        found += [(name, problem, planted[i]) for i in draw.choice(len(planted), 10, replace=False)]
    return found


def main(_: list[str]) -> None:
    from proofs.prove_check import judged

    warnings.simplefilter("ignore")
    checks = {
        "jax.test_util.check_grads, float32": lambda p, f: by_jax(p, f, np.float32),
        "jax.test_util.check_grads, float64": lambda p, f: by_jax(p, f, np.float64),
        "chex.assert_numerical_grads": by_chex,
        "torch.autograd.gradcheck": by_torch,
    }
    caught, named, alarms = dict.fromkeys(checks, 0), dict.fromkeys(checks, 0), dict.fromkeys(checks, 0)
    with jax.enable_x64(True):
        drawn = sample(flags.FLAGS.count)
        ours: list[Outcome] = []
        for name, problem in {name: problem for name, problem, _ in drawn}.items():
            ours += judged(name, problem, [(f, f.pullback, False) for n, _, f in drawn if n == name])
            right = Fault(None, "right", next(iter(problem.leaves)), problem.pullback)
            for check, run in checks.items():
                alarms[check] += run(problem, right)[0]
        real = [(p, f) for (_, p, f), one in zip(drawn, ours, strict=True) if not one.equivalent]
        for check, run in checks.items():
            verdicts = [run(problem, fault) for problem, fault in real]
            caught[check], named[check] = sum(c for c, _ in verdicts), sum(n for _, n in verdicts)
            print(f"{check}: done", flush=True)
    ours = [one for one in ours if not one.equivalent]
    rows = [("jaxbp.check", sum(o.caught for o in ours), sum(o.caught for o in ours), sum(o.named for o in ours), 0)]
    rows += [(check, caught[check], named[check], 0, alarms[check]) for check in checks]
    subjects_seen = len({name for name, _, _ in drawn})
    print(f"\n| check | caught, of {len(real)} | leaf named | cause named | right ones failed, of {subjects_seen} |")
    print("|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    if flags.FLAGS.json:
        columns = ("check", "caught", "leaf_named", "cause_named", "right_failed")
        table = [dict(zip(columns, row, strict=True)) for row in rows]
        write_json(Path(flags.FLAGS.json), {"machine": machine(), "faults": len(real), "rows": table})


if __name__ == "__main__":
    app.run(main)
