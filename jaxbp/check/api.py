"""The four checks, by what is given; each returns a Report, and its `assert_` form raises with the report's text.

Everything runs in float64, whatever the caller's settings are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, get_args

import jax
import numpy as np

from jaxbp.check.judge import Level, examine
from jaxbp.check.problem import Problem, function_problem, gradient_problem, layer_problem, model_problem
from jaxbp.check.report import Report
from jaxbp.check.truth import FLOAT64_TOLERANCE
from jaxbp.core import Case, Context, Layer, PyTree, label
from jaxbp.errors import InputError, unknown


def check_gradient(
    gradient: Callable,
    loss: Callable,
    params: PyTree,
    *batch: PyTree,
    level: Level = "default",
    accuracy: float = FLOAT64_TOLERANCE,
    seed: int = 0,
) -> Report:
    """A hand-written gradient(params, *batch) -> like params, against the scalar loss(params, *batch).

    Both may be JAX or NumPy code. level "full" adds other precisions, batches, transformations and hard points.
    accuracy: the largest relative error that counts as right. Raises InputError for what cannot be checked.
    """
    return _examined(lambda: gradient_problem(gradient, loss, params, *batch), level, accuracy, seed)


def check_function(
    function: Callable,
    *arguments: PyTree,
    reference: Callable | None = None,
    level: Level = "default",
    accuracy: float = FLOAT64_TOLERANCE,
    seed: int = 0,
) -> Report:
    """A function with a jax.custom_vjp or custom_jvp, against `reference`, a plain function of the same arguments.

    Without a reference it is compared with autodiff of itself, its custom rules taken off, and with central
    differences.
    """
    return _examined(lambda: function_problem(function, *arguments, reference=reference), level, accuracy, seed)


def check_layer(
    layer: Layer,
    spec: PyTree,
    level: Level = "default",
    accuracy: float = FLOAT64_TOLERANCE,
    seed: int = 0,
    sample: Callable | None = None,
    train: bool = True,
) -> Report:
    """A layer's backward against its own forward, on random parameters and inputs of shape and dtype `spec`.

    sample(key, spec) draws inputs that keep off kinks. A combinator is checked as a whole, and bisected where it fails.
    """

    def problem() -> Problem:
        keys = jax.random.split(jax.random.key(seed), 3)
        jitter = lambda p: p + 0.1 * np.random.default_rng(p.size).normal(size=p.shape).astype(p.dtype)
        try:
            params, state = jax.tree.map(jitter, layer.init(keys[0], spec)), layer.init_state(spec)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{label(layer)}.init raised {type(error).__name__}: {error}") from None
        return layer_problem(layer, params, Case(layer, spec, sample).draw(keys[1]), Context(keys[2], state, train))

    return _examined(problem, level, accuracy, seed)


def check_model(
    model: Layer,
    loss: Any,
    params: PyTree,
    batch: PyTree,
    ctx: Context = Context(),
    penalties: Sequence[Any] = (),
    level: Level = "default",
    accuracy: float = FLOAT64_TOLERANCE,
    seed: int = 0,
) -> Report:
    """value_and_grad(model, loss, penalties) on a batch {"x", "y", "weight"}; with dropout ctx's key fixes the mask."""
    return _examined(lambda: model_problem(model, loss, params, batch, ctx, penalties), level, accuracy, seed)


def _examined(problem: Callable[[], Problem], level: Level, accuracy: float, seed: int) -> Report:
    if level not in get_args(Level):
        raise unknown("level", str(level), get_args(Level))
    if not accuracy > 0:
        raise InputError(f"accuracy, the largest relative error that is right, must be above 0, got {accuracy}")
    promotion = jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard")
    with jax.enable_x64(True), jax.default_matmul_precision("highest"), promotion[0], promotion[1]:
        return examine(problem(), level, accuracy, seed)


def _asserting(check: Callable[..., Report]) -> Callable[..., Report]:
    @wraps(check)
    def assert_right(*args: Any, **kwargs: Any) -> Report:
        __tracebackhide__ = True
        report = check(*args, **kwargs)
        if not report.passed:
            raise AssertionError(str(report))
        return report

    return assert_right


assert_gradient = _asserting(check_gradient)
assert_function = _asserting(check_function)
assert_layer = _asserting(check_layer)
assert_model = _asserting(check_model)
