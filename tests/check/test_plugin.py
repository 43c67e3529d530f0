"""The pytest plugin in a project that is not jaxbp: its fixture, its marker, and that it costs nothing at start."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from jaxbp import check
from pytest_jaxbp import Gradients

STRICT = "[pytest]\naddopts = --strict-markers --strict-config -p no:cacheprovider\nfilterwarnings = error\n"
PROJECT = """
import jax.numpy as jnp
import jaxbp
import numpy as np
import pytest

pytestmark = pytest.mark.gradients(accuracy=0.5, seed=1)
POINT = np.array([1.0, 2.0])
half = lambda p: jnp.sum(p**2) / 2
one_percent = lambda p: 1.01 * p

def test_right(gradients):
    report = gradients.gradient(lambda p: p, half, POINT)
    assert report.passed and not [f for f in report.findings if f.method == "vmap"]

def test_every_form(gradients):
    gradients.function(jnp.sin, POINT)
    gradients.layer(jaxbp.Dense(2), jaxbp.shaped(5, 3))
    model, batch = jaxbp.Dense(2), {"x": jnp.ones((5, 3)), "y": jnp.ones((5, 2)), "weight": jnp.ones(5)}
    gradients.model(model, jaxbp.SquaredError(), {"w": jnp.ones((2, 3)), "b": jnp.ones(2)}, batch)

def test_accuracy_of_the_module(gradients):
    gradients.gradient(one_percent, half, POINT)

@pytest.mark.gradients(accuracy=1e-9)
def test_nearest_marker_wins(gradients):
    assert gradients.settings == {"accuracy": 1e-9, "seed": 1}
    gradients.gradient(one_percent, half, POINT)

def test_call_wins(gradients):
    gradients.gradient(one_percent, half, POINT, accuracy=1e-9)

@pytest.mark.gradients(level="full")
def test_level(gradients):
    assert "vmap" in [f.method for f in gradients.gradient(lambda p: p, half, POINT).findings]

def test_unusable(gradients):
    gradients.gradient(lambda p: p, lambda p: p, POINT)

def test_unusable_can_be_expected(gradients):
    with pytest.raises(jaxbp.InputError, match="scalar"):
        gradients.gradient(lambda p: p, lambda p: p, POINT)

@pytest.mark.gradients(levle="full")
def test_misspelt_marker(gradients):
    pass

@pytest.mark.gradients("full")
def test_marker_by_position(gradients):
    pass
"""


def run(folder, *words):
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Test name -> the text of its failure, None where it passed."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "pytest.ini").write_text(STRICT)
    (folder / "test_project.py").write_text(PROJECT)
    done = run(folder, "-m", "pytest", "-q", "--junitxml=outcomes.xml")
    assert done.returncode == 1, done.stdout + done.stderr
    texts = {}
    for case in ElementTree.parse(folder / "outcomes.xml").iter("testcase"):
        failures = [*case.iter("failure"), *case.iter("error")]
        texts[case.get("name")] = failures[0].text if failures else None
    return texts


@pytest.mark.slow
def test_what_passes_and_what_fails(outcomes):
    assert [name.removeprefix("test_") for name, text in outcomes.items() if text] == [
        "nearest_marker_wins",
        "call_wins",
        "unusable",
        "misspelt_marker",
        "marker_by_position",
    ]
    assert len(outcomes) == 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_nearest_marker_wins", "test_call_wins"])
def test_a_failure_is_the_report_and_the_line_of_the_test(outcomes, name):
    text = outcomes[name]
    assert "gradient check of <lambda>: FAIL, 0 of 1 leaves right" in text
    assert "params: likely cause: wrong factor: every entry is 1.01 times the true one" in text
    assert ">       gradients.gradient(one_percent, half, POINT" in text or ">   gradients.gradient" in text
    assert "pytest_jaxbp.py" not in text
    assert "jaxbp/check" not in text


@pytest.mark.slow
def test_what_cannot_be_checked_is_one_line(outcomes):
    text = outcomes["test_unusable"]
    assert "InputError: the loss must be a scalar of a floating type: <lambda> returned (2,) of float64" in text
    assert "jaxbp/check" not in text
    assert "pytest_jaxbp.py" not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "strange"), [("test_misspelt_marker", "levle"), ("test_marker_by_position", "'full'")]
)
def test_a_marker_with_other_arguments_is_refused(outcomes, name, strange):
    text = outcomes[name]
    assert f"the marker gradients takes no argument {strange} (only level, accuracy, seed, by name)" in text
    assert "pytest_jaxbp.py" not in text


def test_every_check_is_a_method_of_the_fixture():
    checks = {name.removeprefix("check_") for name in check.__all__ if name.startswith("check_")}
    assert checks == {name for name in vars(Gradients) if not name.startswith("_")}


def test_pytest_starts_without_jax(tmp_path):
    (tmp_path / "pytest.ini").write_text(STRICT)
    (tmp_path / "test_nothing.py").write_text("def test_nothing(): pass\n")
    code = "import pytest, sys; status = pytest.main(['-q']); print('loaded', *sorted(sys.modules)); sys.exit(status)"
    done = run(tmp_path, "-c", code)
    assert done.returncode == 0, done.stdout + done.stderr
    loaded = done.stdout.splitlines()[-1].split()
    assert "pytest_jaxbp" in loaded
    assert not {"jax", "jaxlib", "jaxbp"} & set(loaded)


@pytest.mark.slow
def test_pytest_lists_the_marker_and_the_fixture(tmp_path):
    done = run(tmp_path, "-m", "pytest", "--markers", "-p", "no:cacheprovider")
    assert "@pytest.mark.gradients(level='default', accuracy=1e-11, seed=0): " in done.stdout
    done = run(tmp_path, "-m", "pytest", "--fixtures", "-q", "-p", "no:cacheprovider")
    assert "gradients -- " in done.stdout
