"""The gradient check: of any hand-written derivative, leaf by leaf, with the likely cause where one is wrong.

Reading order:

    api          the five checks and their `assert_` forms; everything runs in float64
    problem      what every check takes: a forward and a hand-written pullback over a flat dict (`leaves`)
    program      value, hand-written and true derivative, slope: one compiled program for all that is measured
    judge        the measurement; every leaf judged, by autodiff (`truth`) and by central `differences`; the findings
    modules      Flax, Equinox and PyTorch modules as functions; `torch_functions` by NumPy in and out
    options      a function in every setting of its keywords; the `lines` of its backward that none ran
    laws         level "full": precisions, batches, transformations, hard points
    diagnosis/   what is wrong with a leaf that fails
    report       the outcome: text, JSON, the causes' names
    __main__     the command
"""

from jaxbp.check.api import (
    assert_function,
    assert_gradient,
    assert_layer,
    assert_model,
    assert_module,
    check_function,
    check_gradient,
    check_layer,
    check_model,
    check_module,
)
from jaxbp.check.options import OptionsReport, Setting
from jaxbp.check.report import Cause, Explanation, Finding, Leaf, Report
from jaxbp.check.truth import autodiff, leaf_errors, worst

__all__ = [
    "Cause",
    "Explanation",
    "Finding",
    "Leaf",
    "OptionsReport",
    "Report",
    "Setting",
    "assert_function",
    "assert_gradient",
    "assert_layer",
    "assert_model",
    "assert_module",
    "autodiff",
    "check_function",
    "check_gradient",
    "check_layer",
    "check_model",
    "check_module",
    "leaf_errors",
    "worst",
]
