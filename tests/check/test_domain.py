"""Arguments that must stay in bounds: differences are one-sided there, and nothing outside is called."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.check import check_function, check_gradient
from jaxbp.check.domain import inside, mirrored

AT_BOUND = np.array([0.0, 0.3, 2.0])


def half_power(slope_at_zero, outside=7.0):
    """x^1.5 for x >= 0, `outside` times x below; its slope at 0 is 0 in the domain."""
    forward = lambda x: jnp.where(x >= 0, jnp.abs(x) * jnp.sqrt(jnp.abs(x)), outside * x)
    function = jax.custom_vjp(forward)
    slope = lambda x: jnp.where(x == 0, slope_at_zero, 1.5 * jnp.sqrt(jnp.abs(x)))
    function.defvjp(lambda x: (forward(x), x), lambda x, dy: (dy * slope(x),))
    return function


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slope", "domain", "passed"),
    [(0.0, {"x": (0, None)}, True), (3.0, {"x": (0, None)}, False), (3.0, None, True), (0.0, {"x": (0, 2)}, True)],
)
def test_at_a_bound_only_the_inner_side_counts(slope, domain, passed):
    assert check_function(half_power(slope), AT_BOUND, domain=domain).passed == passed


def test_nothing_outside_is_called():
    def loss(params):
        assert np.all(np.asarray(params["scale"]) >= 0), "a negative scale"
        return float(np.sum(np.asarray(params["scale"]) ** 1.5) + np.sum(np.asarray(params["w"]) ** 2))

    gradient = lambda params: {"scale": 1.5 * np.asarray(params["scale"]) ** 0.5, "w": 2 * np.asarray(params["w"])}
    params = {"scale": AT_BOUND, "w": np.array([-1.0, 2.0])}
    report = check_gradient(gradient, loss, params, domain={"scale": (0, None)})
    assert report.passed
    assert {leaf.path: leaf.verdict for leaf in report.leaves} == {"scale": "pass", "w": "pass"}
    wrong = lambda params: gradient(params) | {"scale": np.asarray(params["scale"]) ** 0.5}
    report = check_gradient(wrong, loss, params, domain={"scale": (0, None)})
    assert [leaf.path for leaf in report.leaves if not leaf.passed] == ["scale"]
    with pytest.raises((jaxbp.InputError, AssertionError), match="a negative scale"):
        check_gradient(gradient, loss, params)


@pytest.mark.slow
def test_the_full_level_stays_inside():
    entropy = lambda p: -jnp.sum(p * jnp.log(p) + (1 - p) * jnp.log(1 - p))
    slope = lambda p: jnp.log(1 - p) - jnp.log(p)
    report = check_gradient(slope, entropy, np.array([0.1, 0.5, 0.995]), domain={"params": (0, 1)}, level="full")
    assert report.passed
    asked = {finding.method: finding.passed for finding in report.findings}
    assert asked["vmap"]
    assert asked["every leaf 10000"] is None
    assert asked["float32"]


def test_bounds_of_a_tree():
    leaves = {"a/b": jnp.array([0.0, 5.0]), "a": jnp.array(1.0), "c": jnp.array(-1.0)}
    limits = {"a/b": (0.0, 4.0), "c": (-2.0, np.inf)}
    assert not inside(limits, leaves)
    np.testing.assert_array_equal(mirrored(limits, leaves)["a/b"], [0, 3])
    assert inside(limits, mirrored(limits, leaves | {"c": jnp.array(-5.0)}))


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        ({"y": (0, None)}, r"unknown argument in domain= 'y' \(allowed: x\)"),
        ({"x": 0}, r"domain\['x'\] must be \(lowest, highest\) with None for any, as in \(0, None\), got 0"),
        ({"x": (2, 1)}, r"domain\['x'\] must be \(lowest, highest\)"),
        ({"x": ("a", 1)}, r"domain\['x'\] must be \(lowest, highest\)"),
        ({"x": (1, None)}, r"x has 0 to 2, outside its domain 1 to inf"),
    ],
)
def test_a_domain_that_cannot_be_used_is_one_line(domain, words):
    with pytest.raises(jaxbp.InputError, match=words):
        check_function(half_power(0.0), AT_BOUND, domain=domain)
