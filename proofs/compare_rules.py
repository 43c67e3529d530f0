"""The kinds of `proofs/rules.py` through gradient checks: how many wrong rules fail, and how many right ones.

    python -m proofs.compare_rules [--kind=KIND] [--json=FILE]

Each check is called as its users call it, with its defaults, in float64; torch's looks at forward mode when asked to.
A check of others fails a rule if it raises. Ours fails it if the report does or an InputError is raised. A check that
takes one call at a time is called for the defaults of the options: whoever thinks of the others finds their faults.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.test_util import check_grads

from jaxbp.check import check_function, check_gradient
from jaxbp.commands import cli
from jaxbp.commands.__main__ import guarded
from jaxbp.errors import InputError
from jaxbp.files import write_json
from jaxbp.machine import machine
from jaxbp.typed import Typed
from proofs.rules import Rule, rules


def in_jax(rule: Rule, xp: Any = jnp, **options: Any) -> Callable:
    """The rule as a jax.custom_vjp, or a custom_jvp where its forward mode is asked about."""
    value = lambda *a: rule.value(xp, *a, **options)
    if rule.forward is not None:
        with_rule = jax.custom_jvp(value)
        with_rule.defjvp(lambda a, v: (value(*a), rule.forward(xp, a, v)))
        return with_rule
    with_rule = jax.custom_vjp(value)
    with_rule.defvjp(lambda *a: (value(*a), a), lambda a, dy: rule.backward(xp, a, dy, **options))
    return with_rule


def by_jaxbp(rule: Rule) -> bool:
    """check_function with a plain reference, or check_gradient of NumPy code."""
    try:
        if rule.kind == "not repeatable":
            (a,) = rule.arguments
            gradient = lambda a: rule.backward(np, (a,), 1.0)[0]
            return not check_gradient(gradient, lambda a: float(rule.value(np, a)), a).passed
        if rule.options:
            function = lambda *a, **options: in_jax(rule, **options)(*a)
            reference = lambda *a, **options: rule.value(jnp, *a, **options)
            return not check_function(function, *rule.arguments, reference=reference, options=rule.options).passed
        reference = lambda *a: rule.value(jnp, *a)
        return not check_function(in_jax(rule), *rule.arguments, reference=reference).passed
    except InputError:
        return True


def by_jax(rule: Rule) -> bool:
    """jax.test_util.check_grads."""
    modes = ["rev"] if rule.forward is None else ["fwd"]
    return raised(lambda: check_grads(in_jax(rule, module(rule)), rule.arguments, order=1, modes=modes))


def by_chex(rule: Rule) -> bool:
    """chex.assert_numerical_grads."""
    modes = ["rev"] if rule.forward is None else ["fwd"]
    arguments = tuple(map(jnp.asarray, rule.arguments))
    return raised(lambda: chex.assert_numerical_grads(in_jax(rule, module(rule)), arguments, order=1, modes=modes))


def by_torch(rule: Rule) -> bool:
    """torch.autograd.gradcheck. PyTorch's gradients are the conjugates of JAX's."""
    array = lambda t: t.detach().resolve_conj().numpy()
    tensor = lambda a: torch.from_numpy(np.array(a))

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)
            return tensor(rule.value(np, *map(array, inputs)))

        @staticmethod
        def backward(ctx, dy):
            arrays = tuple(map(array, ctx.saved_tensors))
            gradients = rule.backward(np, arrays, np.conj(array(dy)))
            return tuple(tensor(np.conj(g)) for g in gradients)

        @staticmethod
        def jvp(ctx, *tangents):
            return tensor(rule.forward(np, tuple(map(array, ctx.saved_tensors)), tuple(map(array, tangents))))

    inputs = [tensor(a).requires_grad_() for a in rule.arguments]
    forward = rule.forward is not None
    return raised(lambda: torch.autograd.gradcheck(Function.apply, inputs, check_forward_ad=forward))


def module(rule: Rule) -> Any:
    """What NumPy draws has to be drawn at every call, not once at tracing."""
    return np if rule.kind == "not repeatable" else jnp


def raised(check: Callable[[], object]) -> bool:
    """Whether a check raised."""
    try:
        check()
    except Exception:  # each check raises a kind of its own
        return True
    return False


CHECKS: dict[str, Callable[[Rule], bool]] = {
    "jaxbp.check": by_jaxbp,
    "jax.test_util.check_grads": by_jax,
    "chex.assert_numerical_grads": by_chex,
    "torch.autograd.gradcheck": by_torch,
}


@dataclass(frozen=True)
class Options(Typed):
    """The options of the program.

    Args:
        kind: kinds whose name contains this word
        json: also write the table to this file
    """

    kind: str = ""
    json: cli.OutputFile | None = None


def main(words: Sequence[str]) -> int:
    """Compares the checks on the kinds that the words ask for, and returns the exit status."""
    options = cli.read_all(Options, words)
    warnings.simplefilter("ignore")
    failed: dict[str, Counter] = defaultdict(Counter)  # kind -> (check, right) -> count
    with jax.enable_x64(True):
        for rule in rules():
            if options.kind in rule.kind:
                failed[rule.kind][("count", rule.right)] += 1
                for name, check in CHECKS.items():
                    failed[rule.kind][(name, rule.right)] += (fails := check(rule))
                    if name == "jaxbp.check" and fails == rule.right:
                        print(f"{rule.kind}: {'right' if rule.right else 'wrong'}: {rule.name}", flush=True)
    print("\n| kind | wrong, right | " + " | ".join(CHECKS) + " |")
    print("|---" * (2 + len(CHECKS)) + "|")
    for kind, counts in failed.items():
        cells = [f"{counts[(name, False)]}, {counts[(name, True)]}" for name in ("count", *CHECKS)]
        print(f"| {kind} | " + " | ".join(cells) + " |")
    if options.json:
        rows = [
            {"kind": kind, "check": name, "wrong_failed": counts[(name, False)], "right_failed": counts[(name, True)]}
            for kind, counts in failed.items()
            for name in ("count", *CHECKS)
        ]
        write_json(Path(options.json), {"machine": machine(), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
