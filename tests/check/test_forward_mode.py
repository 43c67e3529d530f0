"""Forward mode and second order: a rule against differences, its transpose and linearity; derivatives of rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.check import check_function

X, W = np.random.default_rng(0).normal(size=(2, 3)), np.random.default_rng(1).normal(size=3)
slow = pytest.mark.slow


def ruled(rule, forward=lambda x, w: jnp.tanh(x) * w):
    function = jax.custom_jvp(forward)
    function.defjvp(rule)
    return function


def right(primals, tangents):
    (x, w), (dx, dw) = primals, tangents
    y = jnp.tanh(x)
    return y * w, (1 - y**2) * w * dx + y * dw


def changed(change):
    """The right rule with change(tangent out, tangents in)."""

    def rule(primals, tangents):
        y, dy = right(primals, tangents)
        return y, change(dy, *tangents)

    return rule


def in_a_loop(dy, dx, dw):
    return jax.lax.while_loop(lambda carry: carry[0] < 1, lambda carry: (carry[0] + 1, 1.0 * carry[1]), (0, dy))[1]


BROKEN = {  # forward mode alone is wrong: what JAX transposes is right
    "a constant": (lambda dy, dx, dw: dy + 1e-3, {"forward mode", "transpose", "linear in the tangent"}),
    "an absolute value": (
        lambda dy, dx, dw: dy + 0.5 * (jnp.abs(dx) - dx),
        {"forward mode", "transpose", "linear in the tangent"},
    ),
}


def broken(report):
    return {finding.method for finding in report.findings if finding.passed is False}


def test_a_right_rule_obeys_the_laws_of_forward_mode():
    report = check_function(ruled(right), X, W)
    assert report.passed
    assert {"forward mode", "transpose", "linear in the tangent"} <= {finding.method for finding in report.findings}


@slow
@pytest.mark.parametrize("name", BROKEN)
def test_a_rule_that_is_wrong_in_forward_mode_alone(name):
    change, laws = BROKEN[name]
    report = check_function(ruled(changed(change)), X, W)
    assert all(leaf.passed for leaf in report.leaves)
    assert broken(report) == laws


def halves(primals, tangents):
    """Two outputs, and a product rule."""
    (x, w), (dx, dw) = primals, tangents
    return (x * w, jnp.sum(w**2)), (dx * w + x * dw, 2 * jnp.sum(w * dw))


def looped(primals, tangents):
    """x times w three times, by a scan."""
    (x, w), (dx, dw) = primals, tangents
    step = lambda carry, _: ((carry[0] * w, carry[1] * w + carry[0] * dw), None)
    return jax.lax.scan(step, (x, dx), None, length=3)[0]


RIGHT = {
    "two outputs": (halves, lambda x, w: (x * w, jnp.sum(w**2))),
    "a loop": (looped, lambda x, w: x * w**3),
    "linear": (lambda p, t: (jnp.flip(p[0]) + p[1], jnp.flip(t[0]) + t[1]), lambda x, w: jnp.flip(x) + w),
    "an autodiff of its own": (lambda p, t: jax.jvp(lambda x, w: jnp.sin(x * w), p, t), lambda x, w: jnp.sin(x * w)),
    "one that is not used": (lambda p, t: (jnp.cosh(p[1]), jnp.sinh(p[1]) * t[1]), lambda x, w: jnp.cosh(w)),
}


@slow
@pytest.mark.parametrize("name", RIGHT)
def test_right_rules_pass_at_both_levels(name):
    for level in ("default", "full"):
        report = check_function(ruled(*RIGHT[name]), X, W, level=level)
        assert report.passed, str(report)


WRONG = {
    "a factor": (lambda p, t: right(p, (t[0], 1.01 * t[1])), ["w"]),
    "a path left out": (lambda p, t: right(p, (t[0], 0 * t[1])), ["w"]),
    "the slope at the output": (changed(lambda dy, dx, dw: dy + 0.1 * dx), ["x"]),
    "a tangent reversed": (lambda p, t: right(p, (t[0][::-1], t[1])), ["x"]),
    "the other tangent's mean": (lambda p, t: right(p, (t[0] - jnp.mean(t[0]), t[1])), ["x"]),
    "all": (changed(lambda dy, dx, dw: -dy), ["w", "x"]),
}


@slow
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_fails_in_its_leaves(name):
    rule, leaves = WRONG[name]
    report = check_function(ruled(rule), X, W)
    assert [leaf.path for leaf in report.leaves if not leaf.passed] == leaves


@slow
def test_a_rule_without_a_transpose_is_checked_column_by_column():
    report = check_function(ruled(changed(in_a_loop)), X, W)
    assert report.passed
    assert {leaf.path: leaf.verdict for leaf in report.leaves} == {"w": "pass", "x": "pass"}
    report = check_function(ruled(changed(lambda dy, dx, dw: in_a_loop(dy + 0.01 * jnp.tanh(dx), dx, dw))), X, W)
    assert [leaf.path for leaf in report.leaves if not leaf.passed] == ["x"]


@slow
def test_at_a_kink_the_tangent_is_between_both_sides():
    function = ruled(lambda p, t: (jnp.maximum(p[0], 0), jnp.where(p[0] > 0, t[0], 0)), lambda x: jnp.maximum(x, 0))
    report = check_function(function, np.array([0.0, 1.0, -1.0]))
    assert [finding.passed for finding in report.findings if finding.method == "forward mode"] == [True]
    assert report.passed


@slow
def test_a_custom_vjp_has_no_forward_mode():
    function = jax.custom_vjp(jax.nn.relu)
    function.defvjp(lambda x: (jax.nn.relu(x), x), lambda x, dy: (jnp.where(x > 0, dy, 0),))
    report = check_function(function, X)
    assert "forward mode" not in {finding.method for finding in report.findings}


# The second order of a function with a rule.


def softplus(stopped, forward=jax.nn.softplus, slope=jax.nn.sigmoid):
    """A function whose rule is right to the first order; where `stopped`, its slope does not depend on x."""
    function = jax.custom_vjp(forward)
    frozen = jax.lax.stop_gradient if stopped else lambda a: a
    function.defvjp(lambda x: (forward(x), x), lambda x, dy: (dy * frozen(slope(x)),))
    return function


@slow
def test_the_second_order_of_a_rule():
    methods = {"inside another gradient", "forward over reverse"}
    report = check_function(softplus(stopped=False), X, level="full")
    assert report.passed
    assert {f.method: f.passed for f in report.findings if f.method in methods} == dict.fromkeys(methods, True)
    assert broken(check_function(softplus(stopped=True), X, level="full")) == methods


SECOND = {  # right to the first order
    "a slope that was kept": lambda x, dy: (dy * jax.lax.stop_gradient(jax.nn.sigmoid(x)),),
    "half of it kept": lambda x, dy: (dy * (jax.nn.sigmoid(x) + jax.lax.stop_gradient(jax.nn.sigmoid(x))) / 2,),
    "another function's curvature": lambda x, dy: (dy * (jax.nn.sigmoid(x) + x - jax.lax.stop_gradient(x)),),
    "a delta that was kept": lambda x, dy: (jax.lax.stop_gradient(dy * jax.nn.sigmoid(x)),),
}


@slow
@pytest.mark.parametrize("name", SECOND)
def test_a_wrong_second_order(name):
    function = jax.custom_vjp(jax.nn.softplus)
    function.defvjp(lambda x: (jax.nn.softplus(x), x), SECOND[name])
    report = check_function(function, X, level="full")
    assert all(leaf.passed for leaf in report.leaves)
    assert broken(report) >= {"inside another gradient", "forward over reverse"}
    assert check_function(function, X).passed


@slow
def test_the_second_order_of_a_custom_jvp():
    frozen = ruled(lambda p, t: (right(p, t)[0], right(jax.lax.stop_gradient(p), t)[1]))
    assert {"inside another gradient", "forward over reverse"} <= broken(check_function(frozen, X, W, level="full"))


@slow
def test_where_the_second_order_of_autodiff_is_wrong_differences_decide():
    """x^2 of two halves: at 0 autodiff gives half of the curvature of each."""
    forward = lambda x: jnp.maximum(x, 0) ** 2 + jnp.minimum(x, 0) ** 2
    report = check_function(softplus(False, forward, lambda x: 2 * x), np.array([0.0, 2.0]), level="full")
    assert report.passed
    texts = {f.method: f.text for f in report.findings if "second order is wrong here" in f.text}
    assert set(texts) == {"inside another gradient", "forward over reverse"}


@slow
def test_a_backward_with_a_rule_inside_needs_no_forward_over_reverse():
    outer = softplus(stopped=False, slope=softplus(stopped=False, forward=jax.nn.sigmoid, slope=slope_of_sigmoid))
    report = check_function(outer, X, level="full")
    assert report.passed
    assert [f.passed for f in report.findings if f.method == "forward over reverse"] == [None]


def slope_of_sigmoid(x):
    return jax.nn.sigmoid(x) * (1 - jax.nn.sigmoid(x))
