"""The five checks, by what they take: a gradient, a function with a rule, a layer, a model, another library's module.

Each returns a Report; its `assert_` form raises AssertionError with the report's text where the gradient is wrong.
Everything runs in float64, whatever the caller's settings are. All take

    level      "full" adds other precisions, batches, transformations and hard points
    accuracy   the largest relative error that counts as right, above 0
    seed       of random directions, and of what a check draws itself

and raise InputError, in one line, for what cannot be checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, get_args

import jax
import numpy as np

from jaxbp.check.calls import name_of
from jaxbp.check.domain import Domain, bounds
from jaxbp.check.judge import Level, examine
from jaxbp.check.modules import call_module, module_problem
from jaxbp.check.options import Options, examine_options
from jaxbp.check.problem import Problem, function_problem, gradient_problem, layer_problem, model_problem
from jaxbp.check.report import Report
from jaxbp.check.settings import double_precision
from jaxbp.check.torch_functions import is_torch_function, torch_function_problem
from jaxbp.check.truth import FLOAT64_TOLERANCE
from jaxbp.core import Case, Context, Layer, PyTree, label
from jaxbp.errors import InputError, unknown


def check_gradient(
    gradient: Callable,
    loss: Callable,
    params: PyTree,
    *batch: PyTree,
    domain: Domain | None = None,
    level: Level = "default",
    accuracy: float = FLOAT64_TOLERANCE,
    seed: int = 0,
) -> Report:
    """A hand-written gradient(params, *batch) -> like params, against the scalar loss(params, *batch).

    Both may be JAX or NumPy code. level "full" adds other precisions, batches, transformations and hard points.
    accuracy: the largest relative error that counts as right. Raises InputError for a loss that is no scalar, for a
    gradient of another tree than params, and for code that fails.

    domain: bounds of what must stay in them, by its path, {"scale": (0, None)}; differences are one-sided there.
    """
    problem = lambda: _within(gradient_problem(gradient, loss, params, *batch), domain)
    return _examined(problem, level, accuracy, seed)


def check_function(
    function: Callable,
    *arguments: PyTree,
    reference: Callable | None = None,
    options: Options | None = None,
    domain: Domain | None = None,
    surrogate: bool = False,
    first_order: bool = False,
    native: bool = False,
    level: Level = "default",
    accuracy: float = FLOAT64_TOLERANCE,
    seed: int = 0,
    **keywords: Any,
) -> Report:
    """A function with a jax.custom_vjp or custom_jvp, against `reference`, a plain function of the same arguments.

    Without a reference it is compared with autodiff of itself, its custom rules taken off, and with central
    differences, which decide where the two disagree. Other keywords go to both functions: arrays among them are
    differentiated, numbers and flags are as they stand (`causal=True`, a static argument). A torch.autograd.Function is
    checked as well, on NumPy arrays or tensors, by differences.

        options      keywords with the values to try, {"causal": [False, True], "cap": [None, 2.0]}. The report is an
                     OptionsReport: of every setting, or of so many that each pair of values occurs; the shortest one
                     that fails comes first, and the lines of the derivative that none ran are listed
        domain       bounds of arguments, {"x": (0, None)}: differences are one-sided there
        surrogate    the derivative is declared to be the reference's, as in a straight-through estimator: autodiff of
                     the reference is the truth, whatever the values are
        native       the function runs in its arguments' own precision (float32 for float64), the reference in float64:
                     four times the error of autodiff of the reference in that precision is allowed
        first_order  level "full" does not ask for derivatives of the derivative

    Raises InputError for a function that JAX cannot trace, and for a reference of another output.
    """
    if is_torch_function(function):
        if options or keywords:
            raise InputError(f"options are keywords, and {name_of(function)}.apply, as PyTorch's, takes none")
        torch_problem = lambda: _within(torch_function_problem(function, arguments, reference), domain)
        return _examined(torch_problem, level, accuracy, seed)
    kind: dict[str, Any] = {
        "reference": reference,
        "surrogate": surrogate,
        "first_order": first_order,
        "native": native,
    }

    def problem(setting: dict[str, Any]) -> Problem:
        return _within(function_problem(function, *arguments, keywords=keywords | setting, **kind), domain)

    if options is None:
        return _examined(lambda: problem({}), level, accuracy, seed)
    call = lambda setting: function(*arguments, **keywords, **setting)
    return _in_float64(lambda: examine_options(problem, call, options, level, accuracy, seed), level, accuracy)


def check_module(
    module: Any,
    *inputs: PyTree,
    variables: PyTree = None,
    options: Options | None = None,
    level: Level = "default",
    accuracy: float = FLOAT64_TOLERANCE,
    seed: int = 0,
) -> Report:
    """A module of Flax NNX, Flax Linen, Equinox or PyTorch that has a hand-written derivative inside.

    module(*inputs) is checked by its floating inputs and its parameters, each moved by a tenth of a normal number. Its
    other state stays as it is, random streams included. Raises InputError for what is no such module.

    variables: those of a Linen module; the default is its own init. options: keywords with the values to try, as in
    check_function; {"train": [True]} is a fixed one.
    """
    problem = lambda keywords: module_problem(module, inputs, variables, keywords, seed)
    if options is None:
        return _examined(lambda: problem({}), level, accuracy, seed)
    call = lambda keywords: call_module(module, inputs, variables, keywords, seed)
    return _in_float64(lambda: examine_options(problem, call, options, level, accuracy, seed), level, accuracy)


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

    spec: a jax.ShapeDtypeStruct with the batch axis first, or a tree of them. sample(key, spec) draws inputs that keep
    off kinks; the default is normal. A combinator is checked as a whole, and bisected where it fails. Raises InputError
    where the layer's own code fails.
    """

    def problem() -> Problem:
        keys = jax.random.split(jax.random.key(seed), 3)
        jitter = lambda p: p + 0.1 * np.random.default_rng(p.size).normal(size=p.shape).astype(p.dtype)
        try:
            params = jax.tree.map(jitter, layer.init(keys[0], spec))
            state = layer.init_state(spec)
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
    """value_and_grad(model, loss, penalties) on a batch {"x", "y", "weight"}, against jax.grad of the same forward.

    With dropout, the key of ctx fixes the mask. The first wrong layer in backward order is found. Raises InputError
    where the model's own code fails.
    """
    return _examined(lambda: model_problem(model, loss, params, batch, ctx, penalties), level, accuracy, seed)


def _within(problem: Problem, domain: Domain | None) -> Problem:
    """The problem with the bounds of its leaves."""
    return replace(problem, domain=bounds(domain, problem.leaves))


def _examined(problem: Callable[[], Problem], level: Level, accuracy: float, seed: int) -> Report:
    return _in_float64(lambda: examine(problem(), level, accuracy, seed), level, accuracy)


def _in_float64(report: Callable[[], Report], level: Level, accuracy: float) -> Report:
    if level not in get_args(Level):
        raise unknown("level", str(level), get_args(Level))
    if not accuracy > 0:
        raise InputError(f"accuracy, the largest relative error that counts as right, must be above 0, got {accuracy}")
    with double_precision():
        return report()


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
assert_module = _asserting(check_module)
