"""What continuous integration reads: JUnit's file and GitHub's annotations, at the line of the hand-written code."""

import functools
import linecache
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.check import __main__ as command
from jaxbp.check import check_function, check_gradient
from jaxbp.check.ci import github, junit, place_of

FILE = """
import jax
import jax.numpy as jnp
import numpy as np

@jax.custom_vjp
def f(x, twice=False):
    return jnp.tanh(x)

def backward(kept, dy):
    x, twice = kept
    return dy * (1 - jnp.tanh(x) ** 2) * jnp.where(twice, 2, 1), None

f.defvjp(lambda x, twice: (f(x, twice), (x, twice)), backward)
example = lambda: (np.arange(3.0),)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "rules.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(command.sys.path))
    command._module.cache_clear()
    return tmp_path


def test_the_command_writes_both_at_the_line_of_the_rule(folder, capsys):
    words = ["--function=rules.py:f", "--example=rules.py:example", "--option=twice=False,True"]
    assert command.main([*words, "--github", "--junit=report.xml"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("::")]
    title = "title=gradient check of f with twice=True"
    assert lines[0].startswith(
        f"::error file=rules.py,line=10,{title}::x: likely cause: wrong factor: a factor 2 is too many"
    )
    suite = ElementTree.parse("report.xml").getroot()
    cases = {(case.get("classname"), case.get("name")): case for case in suite}
    wrong = cases["gradient check of f with twice=True", "x"]
    assert (wrong.get("file"), wrong.get("line")) == ("rules.py", "10")
    assert wrong.find("failure").get("message").startswith("likely cause: wrong factor")
    assert "gradient check of f: FAIL" in wrong.find("failure").text
    assert cases["gradient check of f with every option at its first value", "x"].find("failure") is None
    assert int(suite.get("failures")) == len(lines)
    assert int(suite.get("tests")) == len(cases)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--option=a"], "argument --option: 'a' must be NAME=VALUE,VALUE with Python's literals"),
        (["--option=a=b"], "argument --option: 'a=b' must be NAME=VALUE,VALUE with Python's literals"),
        (["--layer=x", "--shape=2", "--option=a=1"], "--layer does not go with --option"),
        (["--module=rules.py:f"], "--module needs --example too"),
        (["--junit=nowhere/report.xml"], "argument --junit: there is no folder 'nowhere'"),
    ],
)
def test_words_that_cannot_be_used(folder, words, text):
    with pytest.raises(jaxbp.InputError, match=text):
        command.main(words)


def test_what_was_not_asked_is_skipped_and_signs_are_escaped():
    half = lambda p: jnp.sum(p**2) / 2
    report = check_gradient(lambda p: 2 * p, half, np.ones(2))
    lines = github(report, ("a.py", 3))
    assert lines[0].startswith("::error file=a.py,line=3,title=gradient check of <lambda>::params: likely cause: ")
    assert github(report, None)[0].startswith("::error title=gradient check of <lambda>::")
    broken = check_gradient(lambda p: p, lambda p: np.sum(np.asarray(p) ** 2) / 2, np.ones(2), level="full")
    suite = ElementTree.fromstring(junit(broken, None))
    assert suite.get("skipped") == "1"
    assert suite.get("failures") == "0"


def test_the_place_of_the_hand_written_part():
    line = lambda place: linecache.getline(*place).strip()

    class Mine(jaxbp.Dense):
        def backward(self, params, cache, dy):
            return super().backward(params, cache, dy)

    def plain(x):
        return x

    ruled = jax.custom_vjp(plain)
    ruled.defvjp(lambda x: (x, None), lambda kept, dy: (dy,))
    assert line(place_of(Mine(2))).startswith("def backward(")
    assert line(place_of(plain)).startswith("def plain(")
    assert line(place_of(functools.partial(plain))).startswith("def plain(")
    assert line(place_of(ruled)).startswith("ruled.defvjp(")
    assert place_of(np.sin) is None
    assert check_function(ruled, np.ones(2)).passed
