"""The gradient check in the tests of any project: pytest finds this module wherever jaxbp is installed.

    def test_my_layer(gradients):
        gradients.function(my_function, x, reference=plain)

    @pytest.mark.gradients(level="full", accuracy=1e-9)
    def test_my_training_step(gradients):
        gradients.gradient(my_gradient, my_loss, params, x, y)

It stands beside the package because pytest imports it at every start, and importing the package imports JAX.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from jaxbp.check import Report

SETTINGS = ("level", "accuracy", "seed")
MARKER = "gradients(level='default', accuracy=1e-11, seed=0): the settings of the fixture `gradients`"


class Gradients:
    """The checks of jaxbp.check for one test. A wrong gradient fails the test with the report as its message.

    Arguments are those of the check in jaxbp.check. level, accuracy and seed come from the marker where the call does
    not give them. Each method returns the report of a check that passed. Raises jaxbp.InputError for what cannot be
    checked.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def gradient(self, *args: Any, **options: Any) -> Report:
        """jaxbp.check.check_gradient(gradient, loss, params, *batch)."""
        __tracebackhide__ = True
        return self._passed("check_gradient", args, options)

    def function(self, *args: Any, **options: Any) -> Report:
        """jaxbp.check.check_function(function, *arguments, reference=None)."""
        __tracebackhide__ = True
        return self._passed("check_function", args, options)

    def layer(self, *args: Any, **options: Any) -> Report:
        """jaxbp.check.check_layer(layer, spec)."""
        __tracebackhide__ = True
        return self._passed("check_layer", args, options)

    def model(self, *args: Any, **options: Any) -> Report:
        """jaxbp.check.check_model(model, loss, params, batch)."""
        __tracebackhide__ = True
        return self._passed("check_model", args, options)

    def module(self, *args: Any, **options: Any) -> Report:
        """jaxbp.check.check_module(module, *inputs), of Flax, Equinox or PyTorch."""
        __tracebackhide__ = True
        return self._passed("check_module", args, options)

    def _passed(self, name: str, args: tuple, options: dict[str, Any]) -> Report:
        __tracebackhide__ = True
        from jaxbp import InputError, check

        try:
            report = getattr(check, name)(*args, **self.settings | options)
        except InputError as error:
            raise error.with_traceback(None) from None  # pytest shows the test's line instead of the check's own
        if not report.passed:
            pytest.fail(str(report))
        return report


@pytest.fixture
def gradients(request: pytest.FixtureRequest) -> Gradients:
    """The gradient checks .gradient, .function, .layer, .model, .module; the marker `gradients` sets their defaults."""
    return Gradients(_merged(request.node.iter_markers("gradients")))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


def _merged(markers: Iterable[pytest.Mark]) -> dict[str, Any]:
    """The settings of all markers; the one nearest to the test wins."""
    settings: dict[str, Any] = {}
    for marker in markers:
        if strange := [*map(repr, marker.args), *(name for name in marker.kwargs if name not in SETTINGS)]:
            allowed = ", ".join(SETTINGS)
            pytest.fail(f"the marker gradients takes no argument {strange[0]} (only {allowed}, by name)", pytrace=False)
        settings = marker.kwargs | settings
    return settings
