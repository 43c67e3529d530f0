"""The gradient check: of any hand-written derivative, leaf by leaf, with the likely cause where one is wrong."""

from jaxbp.check.causes import Cause
from jaxbp.check.compare import leaf_errors, worst
from jaxbp.check.gradients import (
    assert_function,
    assert_gradient,
    assert_layer,
    assert_model,
    check_function,
    check_gradient,
    check_layer,
    check_model,
)
from jaxbp.check.oracle import autodiff
from jaxbp.check.report import Explanation, Finding, Leaf, Report

__all__ = [
    "Cause",
    "Explanation",
    "Finding",
    "Leaf",
    "Report",
    "assert_function",
    "assert_gradient",
    "assert_layer",
    "assert_model",
    "autodiff",
    "check_function",
    "check_gradient",
    "check_layer",
    "check_model",
    "leaf_errors",
    "worst",
]
