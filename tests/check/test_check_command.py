"""python -m jaxbp.check: its output, its exit status, and one line for what cannot be checked."""

import json
import subprocess
import sys

import pytest

from jaxbp import InputError
from jaxbp.check.__main__ import main

FILE = """
from dataclasses import dataclass
import jax, jax.numpy as jnp, numpy as np
import jaxbp
from beside import WIDTH

def example():
    draw = np.random.default_rng(0)
    params = {"b": draw.normal(size=2), "w": draw.normal(size=(2, WIDTH))}
    return params, draw.normal(size=(5, WIDTH)), draw.normal(size=(5, 2))

def loss(params, x, y):
    return jnp.sum((x @ params["w"].T + params["b"] - y) ** 2) / 2

def numpy_gradient(params, x, y):
    dy = np.asarray(x) @ np.asarray(params["w"]).T + np.asarray(params["b"]) - np.asarray(y)
    return {"b": dy.sum(0), "w": dy.T @ np.asarray(x)}

def wrong_gradient(params, x, y):
    grads = numpy_gradient(params, x, y)
    return grads | {"b": grads["b"] / len(x)}

def jax_gradient(params, x, y):
    return jax.grad(loss)(params, x, y)

def vector_loss(params, x, y):
    return x[0]

@jax.custom_vjp
def sine(a):
    return jnp.sin(a)

sine.defvjp(lambda a: (jnp.sin(a), a), lambda a, dy: (dy * jnp.cos(a),))

def plain(a):
    return jnp.sin(a)

def argument():
    return (np.arange(3.0),)

def a_list():
    return [np.arange(3.0)]

def nothing():
    return ()

def raising():
    return (np.arange(3.0)
            @ np.arange(4.0))

@dataclass(frozen=True)
class Doubled(jaxbp.Layer):
    factor: float = 2.0

    def forward(self, params, x, ctx):
        return self.factor * x, None

    def backward(self, params, cache, dy):
        return self.factor * dy, {}

Needy = jaxbp.Dense
layer = jaxbp.Dense(2)
number = 3
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A function that runs the command on names of a file: 'code:loss' stands for it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside.py").write_text("WIDTH = 3")
    (tmp_path / "code.py").write_text(FILE)
    (tmp_path / "broken.py").write_text("import numpy\n\nnumpy.zeros(3) + numpy.zeros(4)\n")
    (tmp_path / "mistyped.py").write_text("def f(:\n")
    (tmp_path / "leaving.py").write_text("raise SystemExit('good bye')\n")

    def run(*words):
        return main([word.replace("code:", f"{tmp_path}/code.py:").replace("DIR", str(tmp_path)) for word in words])

    yield run
    for name in [name for name in sys.modules if name.startswith("checked_") or name == "beside"]:
        del sys.modules[name]


GRADIENT = ("--loss=code:loss", "--example=code:example")


def test_a_right_gradient(code, capsys):
    assert code("--function=code:numpy_gradient", *GRADIENT) == 0
    assert capsys.readouterr().out.startswith("gradient check of numpy_gradient: pass, 2 of 2 leaves right\n")


def test_a_wrong_gradient_and_its_report_as_json(code, capsys, tmp_path):
    assert code("--function=code:wrong_gradient", *GRADIENT, "--json=DIR/report.json") == 1
    out = capsys.readouterr().out
    assert "FAIL, 1 of 2 leaves right" in out.splitlines()[0]
    assert "b: likely cause: mean instead of sum" in out
    constants = []
    report = json.loads((tmp_path / "report.json").read_text(), parse_constant=constants.append)
    assert not constants
    assert not report["passed"]
    assert [(leaf["path"], leaf["verdict"]) for leaf in report["leaves"]] == [("b", "FAIL"), ("w", "pass")]
    assert report["leaves"][0]["causes"][0]["cause"] == "mean instead of sum"
    assert not list(tmp_path.glob(".report*"))


@pytest.mark.parametrize("words", [("--function=code:sine",), ("--function=code:sine", "--reference=code:plain")])
def test_a_function(code, words, capsys):
    assert code(*words, "--example=code:argument", "--seed=3", "--accuracy=1e-9") == 0
    assert "gradient check of sine: pass" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["layer", "Doubled"])
def test_a_layer(code, name, capsys):
    assert code(f"--layer=code:{name}", "--shape=5,3") == 0
    assert ": pass, " in capsys.readouterr().out


@pytest.mark.slow
def test_the_full_level(code, capsys):
    assert code("--function=code:sine", "--example=code:argument", "--level=full") == 0
    assert "pass  vmap" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "what to check is missing: --function, --module or --layer"),
        (("--function=code:sine",), "--function needs --example too, and a hand-written gradient its --loss"),
        (("--function=code:sine", "--reference=code:plain"), r"--function needs --example too \(--help"),
        (("--function=code:numpy_gradient", "--example=code:example"), "numpy_gradient has no custom .*--loss=FILE"),
        (("--function=code:jax_gradient", "--example=code:example"), "jax_gradient has no custom .*--loss=FILE"),
        (("--loss=code:loss", "--example=code:example"), "--loss needs --function too"),
        (("--layer=code:layer",), "--layer needs --shape too"),
        (("--layer=code:layer", "--shape=5,3", "--loss=code:loss"), "--layer does not go with --loss"),
        (("--function=code:sine", *GRADIENT, "--reference=code:plain"), "--loss does not go with --reference"),
        (("--functon=code:sine", "--example=code:argument"), "unrecognized arguments: --functon"),
        (("--function=code:sine", "--example=code:argument", "--level=ful"), "argument --level: .*'ful'"),
        (
            ("--function=code:sine", "--example=code:argument", "--accuracy=0"),
            "argument --accuracy: '0' must be a number",
        ),
        (("--function=code:sine", "--example=code:argument", "--seed=-1"), "argument --seed: '-1' must be an integer"),
        (("--layer=code:layer", "--shape=5,x"), "argument --shape: '5,x' is no shape"),
        (("--layer=code:layer", "--shape=0,3"), "argument --shape: '0,3' is no shape"),
        (("--function=sine", "--example=code:argument"), "'sine' names nothing: it must be FILE:NAME"),
        (("--function=code:sin", "--example=code:argument"), "unknown name in .*code.py 'sin'; did you mean 'sine'"),
        (
            ("--function=DIR/cod.py:sine", "--example=code:argument"),
            "unknown file .*cod.py'; did you mean '.*/code.py'",
        ),
        (("--function=DIR/nowhere/f.py:f", "--example=code:argument"), "there is no file .*nowhere/f.py"),
        (("--function=DIR:f", "--example=code:argument"), "there is no file"),
        (("--function=DIR/broken.py:f", "--example=code:argument"), r"import raised ValueError \(line 3\): operands"),
        (
            ("--function=DIR/mistyped.py:f", "--example=code:argument"),
            "mistyped.py:import raised SyntaxError: .*line 1",
        ),
        (("--function=DIR/leaving.py:f", "--example=code:argument"), "raised SystemExit .*good bye"),
        (("--function=code:number", "--example=code:argument"), "code.py:number must be a function, got int"),
        (("--function=code:sine", "--example=code:number"), "code.py:number must be a function, got int"),
        (
            ("--function=code:sine", "--example=code:a_list"),
            "code.py:a_list must return a tuple of arguments, got list",
        ),
        (("--function=code:sine", "--example=code:nothing"), "must return a tuple of arguments, got an empty one"),
        (("--function=code:sine", "--example=code:raising"), r"code.py:raising raised ValueError \(line \d+\): matmul"),
        (("--function=code:sine", "--example=code:example"), "sine raised TypeError"),
        (("--function=code:numpy_gradient", "--loss=code:vector_loss", "--example=code:example"), "must be a scalar"),
        (("--layer=code:loss", "--shape=5,3"), "code.py:loss must be a jaxbp.Layer, got function"),
        (("--layer=code:Needy", "--shape=5,3"), "code.py:Needy raised TypeError.*features"),
        (
            ("--function=code:sine", "--example=code:argument", "--json=DIR/no/report.json"),
            "--json: there is no folder",
        ),
        (("--function=code:sine", "--example=code:argument", "--json=DIR"), "argument --json: .* is a folder"),
    ],
)
def test_refused_in_one_line(code, words, text):
    with pytest.raises(InputError, match=text) as caught:
        code(*words)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.slow
def test_the_command_as_typed(code, tmp_path):
    def run(function, *words):
        command = [sys.executable, "-m", "jaxbp.check", f"--function=code.py:{function}", "--loss=code.py:loss"]
        command += ["--example=code.py:example", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)

    refused = run("gradient", "--json=report.json")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: unknown name in code.py 'gradient'")
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "report.json").exists()
    wrong = run("wrong_gradient")
    assert (wrong.returncode, wrong.stderr) == (1, "")
