"""A function in every setting of its options: the shortest that fails comes first, lines that never ran last."""

import itertools
import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.check import Cause, check_function
from jaxbp.check.options import FEW, _choices
from tests.support.attention import MISTAKES, attention, inputs
from tests.support.marks import but_at_night

X = np.random.default_rng(0).normal(size=(3, 4))


def scaled(x, bent=False, scale=1.0, mistake=""):
    """tanh(x) or x, times scale; with a backward that is wrong where `mistake` says."""

    @jax.custom_vjp
    def function(x):
        return scale * (jnp.tanh(x) if bent else x)

    def backward(x, dy):
        dx = dy * scale
        if bent and mistake != "slope":
            dx = dx * (1 - jnp.tanh(x) ** 2)
        if bent and scale != 1 and mistake == "both":
            dx = 2 * dx
        if scale == 3:
            dx = dx.T
            dx = dx.T
            raise NotImplementedError("no backward of this scale")
        return (dx,)

    function.defvjp(lambda x: (function(x), x), backward)
    return function(x)


OPTIONS = {"bent": [False, True], "scale": [1.0, 2.0]}


@pytest.fixture(scope="module")
def report():
    return check_function(partial(scaled, mistake="both"), X, options=OPTIONS)


def test_the_shortest_setting_that_fails_comes_first(report):
    assert not report.passed
    assert [(str(s), s.failed, s.shortest) for s in report.settings] == [
        ("bent=True, scale=2.0", True, True),
        ("every option at its first value", False, False),
        ("scale=2.0", False, False),
        ("bent=True", False, False),
    ]
    assert report["x"].ratio == pytest.approx(2)  # leaves are those of the setting that fails
    assert report["x"].causes[0].cause is Cause.FACTOR
    text = str(report)
    assert text.startswith(
        "gradient check of scaled: FAIL in 1 of 4 settings\n\nbent   scale  verdict\nTrue   2.0    FAIL\n"
    )
    assert "\nfails with bent=True, scale=2.0:\n    gradient check of scaled: FAIL, 0 of 1 leaves right" in text


def test_lines_that_no_setting_ran_are_listed(report):
    (line,) = report.unrun  # two neighbouring lines, one entry; the line that raises is none
    assert re.fullmatch(r"tests/check/test_options.py:(\d+)-\d+  dx = dx.T", line)
    assert str(report).endswith(f"\nlines of the hand-written derivative that no setting ran:\n    {line}")


def test_the_report_as_json(report):
    plain = json.loads(json.dumps(report.to_json()))
    assert plain["settings"][0]["options"] == {"bent": "True", "scale": "2.0"}
    assert [setting["report"]["passed"] for setting in plain["settings"]] == [False, True, True, True]
    assert plain["passed"] is False


def test_few_settings_are_all_tried_and_of_many_every_pair():
    assert _choices([2, 2, 4]) == list(itertools.product(range(2), range(2), range(4)))
    assert _choices([20]) == [(i,) for i in range(20)]
    for sizes in ([2] * 5, [3, 3, 3], [4, 3, 2, 2, 2], [2] * 12):
        choices = _choices(sizes)
        assert choices[0] == (0,) * len(sizes)
        assert len(choices) <= FEW
        pairs = {(i, c[i], j, c[j]) for c in choices for i, j in itertools.combinations(range(len(sizes)), 2)}
        assert len(pairs) == sum(a * b for a, b in itertools.combinations(sizes, 2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, r"options must be a dict of a keyword's values, as in {'causal': \[False, True\]}, got {}"),
        ([1], "options must be a dict"),
        ({"bent": True}, r"options\['bent'\] must be a list of at least one value, got True"),
        ({"bent": []}, r"options\['bent'\] must be a list of at least one value, got \[\]"),
        ({"bnet": [True]}, "with bnet=True: scaled raised TypeError: .*unexpected keyword argument 'bnet'"),
        ({"scale": [3]}, "with scale=3: the derivative of scaled raised NotImplementedError: no backward of this"),
    ],
)
def test_options_that_cannot_be_used_are_one_line(options, words):
    with pytest.raises(jaxbp.InputError, match=words):
        check_function(scaled, X, options=options)


def only_even(x, scale=1):
    if scale % 2:
        raise ValueError("scale must be even")
    return scale * jnp.sin(x)


def test_a_setting_that_the_function_refuses_is_left_out_and_said():
    report = check_function(only_even, X, options={"scale": [1, 2]})
    assert report.passed
    assert "gradient check of only_even: pass in 1 of 1 settings\n\nscale  verdict\n2      pass\n" in str(report)
    assert "\n1      refused: ValueError: scale must be even" in str(report)
    with pytest.raises(jaxbp.InputError, match="no setting of the options can be checked: ValueError: scale must be"):
        check_function(only_even, X, options={"scale": [1, 3]})


@pytest.mark.slow
def test_the_reference_gets_the_same_keywords():
    plain = lambda x, bent=False, scale=1.0: scale * (jnp.tanh(x) if bent else x)
    assert check_function(scaled, X, reference=plain, options=OPTIONS).passed
    report = check_function(partial(scaled, mistake="slope"), X, reference=plain, options=OPTIONS)
    assert [str(setting) for setting in report.settings if setting.shortest] == ["bent=True"]
    assert [setting.failed for setting in report.settings] == [True, True, False, False]


@pytest.mark.slow
def test_a_failing_setting_of_a_sweep_by_pairs_is_shortened():
    def function(x, **flags):
        wrong = flags["c"] and flags["e"]
        rule = jax.custom_vjp(jnp.sin)
        rule.defvjp(lambda x: (jnp.sin(x), x), lambda x, dy: ((2 if wrong else 1) * dy * jnp.cos(x),))
        return rule(x)

    report = check_function(function, X, options={name: [False, True] for name in "abcde"})
    assert [str(setting) for setting in report.settings if setting.shortest] == ["c=True, e=True"]
    assert len(report.settings) <= 12


@jax.jit
def step(dy, x):
    return dy * jnp.cos(x)


def doubled(carry, _):
    if carry.ndim > 7:
        carry = carry + 1
    return 2 * carry, None


@pytest.mark.slow
@pytest.mark.parametrize("before", [False, True])
def test_lines_of_what_jax_has_traced_already(before):
    """A jitted helper, and the body of a scan that runs a thousand times."""
    function = jax.custom_vjp(lambda x: 2**1000 * 1e-300 * jnp.sin(x))

    def backward(x, dy):
        return (jax.lax.scan(doubled, step(dy, x), None, length=1000)[0] * 1e-300,)

    function.defvjp(lambda x: (function(x), x), backward)
    if before:
        check_function(function, X)
    report = check_function(lambda x, flag=False: function(x), X, options={"flag": [False]})
    assert report.passed
    (line,) = report.unrun
    assert line.endswith("carry = carry + 1")


@pytest.mark.slow
def test_the_full_level_lists_the_lines_that_never_ran():
    report = check_function(scaled, X, level="full")
    (finding,) = (finding for finding in report.findings if finding.method == "lines")
    assert re.match(
        r"these never ran: tests/check/test_options.py:\d+  dx = dx \* \(1 - jnp.tanh\(x\) \*\* 2\); ", finding.text
    )
    assert report.passed


# The mistakes of shipped attention code.

ATTENTION = {"causal": [False, True], "cap": [None, 2.0], "dropout": [0.0, 0.3]}
SHORTEST = {
    "no slope of the cap": "cap=2.0",
    "dropout twice": "dropout=0.3",
    "D of another output": "dropout=0.3",
    "mask after cap": "causal=True, cap=2.0",
    "group not summed": "every option at its first value",
    "layout": "every option at its first value",
}


@pytest.mark.slow
def test_right_attention_passes_in_every_setting():
    report = check_function(attention(), *inputs(), options=ATTENTION)
    assert report.passed
    assert len(report.settings) == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    "mistake", but_at_night(MISTAKES, *(name for name in MISTAKES if name != "no slope of the cap"))
)
def test_every_mistake_of_attention_is_caught_where_it_hides(mistake):
    report = check_function(attention(mistake), *inputs(), options=ATTENTION)
    assert [str(setting) for setting in report.settings if setting.shortest] == [SHORTEST[mistake]]
    wrong = {leaf.path for leaf in report.leaves if not leaf.passed}
    assert wrong == {"group not summed": {"k"}, "layout": {"q"}}.get(
        mistake, {"q", "k"} | ({"v"} if "mask" in mistake else set())
    )
    if SHORTEST[mistake].startswith("every"):
        return
    assert check_function(attention(mistake), *inputs()).passed  # with the options off nothing is seen


# Options together with what else can be asked.


@pytest.mark.slow
def test_options_of_a_surrogate_and_of_a_function_in_its_own_precision():
    def rounded(x, step=1.0, clip=False):
        function = jax.custom_vjp(lambda x: step * jnp.round(x / step))
        inside = lambda x: jnp.abs(x) <= 1 if clip else True
        function.defvjp(lambda x: (function(x), x), lambda x, dy: (jnp.where(inside(x), dy, 0),))
        return function(x)

    straight = lambda x, step=1.0, clip=False: jnp.where(jnp.abs(x) <= 1, x, jnp.sign(x)) if clip else x
    options = {"step": [1.0, 0.5], "clip": [False, True]}
    assert check_function(rounded, X, reference=straight, surrogate=True, options=options).passed
    report = check_function(rounded, X, reference=lambda x, **_: x, surrogate=True, options=options)
    assert [str(setting) for setting in report.settings if setting.shortest] == ["clip=True"]

    narrow = lambda x, scale=1.0: scale * x.astype(jnp.float32) ** 2
    report = check_function(
        narrow,
        X.astype(np.float32),
        reference=lambda x, scale=1.0: scale * x**2,
        native=True,
        options={"scale": [1.0, 3.0]},
    )
    assert report.passed


@pytest.mark.slow
def test_a_fixed_keyword_beside_options():
    report = check_function(scaled, X, mistake="both", scale=2.0, options={"bent": [False, True]})
    assert [str(setting) for setting in report.settings if setting.shortest] == ["bent=True"]
