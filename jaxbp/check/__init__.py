"""The gradient check: of any hand-written derivative, leaf by leaf, with the likely cause where one is wrong.

Reading order:

    api          the five checks and their `assert_` forms; everything runs in float64
    problem      what every check takes: a forward and a hand-written pullback over a flat dict (`leaves`)
    calls        how the functions under check are called: traced, or on NumPy arrays of their own (`numpy_trace`)
    settings     double precision for a check that leaves no trace in the process
    domain       bounds of arguments; `native` a function in its own precision; `columns` one without a transpose
    program      value, hand-written and true derivative, slope: one compiled program for all that is measured
    witnesses    the measurement: autodiff (`truth`), `differences`, the hand-written derivative; whom to believe
    kinks        the bounds of a kink along several entries at once
    judge        the verdict on every leaf, and the findings on the whole
    modules      Flax, Equinox and PyTorch modules as functions; `torch_functions` by NumPy in and out
    options      a function in every setting of its keywords; the `lines` of its backward that none ran
    cotangents   what a reverse rule owes to every cotangent; `forward` what a custom_jvp owes to tangents
    laws         level "full": precisions, batches, transformations, hard points
    ties         the operations that make autodiff wrong at a point
    diagnosis/   what is wrong with a leaf that fails; `guard`: it never decides the outcome
    report       the outcome: text, JSON, the causes' names
    __main__     the command; `ci` what continuous integration reads
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
