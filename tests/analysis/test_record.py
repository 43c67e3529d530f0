"""The record of a pass: a published example digit by digit, and deltas equal to autodiff's on models of every kind."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.analysis.record import Record, Row, record, short
from jaxbp.losses import SquaredError
from jaxbp.page import contents
from tests.support.commands import command
from tests.support.models import PER_EXAMPLE
from tests.support.models import per_example_setting as setting

pytestmark = pytest.mark.usefixtures("float64")
MAZUR = jaxbp.Chain((jaxbp.Dense(2), jaxbp.Sigmoid(), jaxbp.Dense(2), jaxbp.Sigmoid()))


def mazur():
    """The 2-2-2 network of Mazur 2015, "A step by step backpropagation example"."""
    wide = lambda numbers: jnp.array(numbers, jnp.float64)
    params = {
        "00_dense": {"w": wide([[0.15, 0.2], [0.25, 0.3]]), "b": wide([0.35, 0.35])},
        "01_sigmoid": {},
        "02_dense": {"w": wide([[0.4, 0.45], [0.5, 0.55]]), "b": wide([0.6, 0.6])},
        "03_sigmoid": {},
    }
    batch = {"x": wide([[0.05, 0.1]]), "y": wide([[0.01, 0.99]]), "weight": jnp.ones(1)}
    return record(MAZUR, SquaredError(), params, batch)


def test_the_classic_example():
    example = mazur()
    rows = {row.name: row for row in example.rows}
    assert [row.name for row in example.rows][:4] == ["00_dense", "00_dense/b", "00_dense/w", "01_sigmoid"]
    assert f"{example.value:.9f}" == "0.298371109"
    assert {row.by_hand.dtype for row in example.rows} == {np.dtype(np.float64)}
    assert f"{rows['00_dense'].value[0, 0]:.4f}" == "0.3775"
    assert [f"{v:.9f}" for v in rows["01_sigmoid"].value[0]] == ["0.593269992", "0.596884378"]
    assert [f"{v:.9f}" for v in rows["03_sigmoid"].value[0]] == ["0.751365070", "0.772928465"]
    assert f"{rows['02_dense'].by_hand[0, 0]:.8f}" == "0.13849856"
    assert f"{rows['02_dense/w'].by_hand[0, 0]:.9f}" == "0.082167041"
    assert f"{rows['00_dense/w'].by_hand[0, 0]:.9f}" == "0.000438568"
    assert "02_dense/w  2x2    0.4 0.45 0.5 0.55  0.082167 0.0826676 -0.0226025 -0.0227402" in str(example)


@pytest.mark.slow
@pytest.mark.parametrize("name", PER_EXAMPLE)
def test_deltas_equal_those_of_autodiff(name):
    rows = record(*setting(name)).rows
    assert len(rows) > len(jax.tree.leaves(setting(name)[2]))
    assert all(row.by_hand.shape == row.autodiff.shape == row.value.shape for row in rows)
    assert all(row.difference <= 1e-10 for row in rows)
    assert all(np.any(row.by_hand) for row in rows)


@pytest.mark.slow
def test_a_wrong_backward_shows_where_it_begins():
    class Wrong(jaxbp.Tanh):
        def backward(self, params, cache, dy):
            dx, grads = super().backward(params, cache, dy)
            return 1.5 * dx, grads

    model = jaxbp.Chain((jaxbp.Dense(4), Wrong(), jaxbp.Dense(3)))
    _, loss, params, batch = setting("mlp")
    params = {"00_dense": params["00_dense"], "01_wrong": {}, "02_dense": params["02_dense"]}
    rows = record(model, loss, params, batch).rows
    assert {row.name for row in rows if row.difference > 1e-10} == {"00_dense", "00_dense/w", "00_dense/b", "x"}


@pytest.mark.parametrize("wrong", [[np.nan, 0.0], [np.inf, 0.0], [np.nan, 3.0]])
@pytest.mark.parametrize("truth", [[0.0, 0.0], [1.0, 2.0]])
def test_a_number_that_is_not_finite_is_a_difference_in_every_form(wrong, truth):
    """Also where the truth is zero, and where a number is larger than what is beside the nan."""
    for pair in ((wrong, truth), (truth, wrong)):
        row = Row("w", "parameter", "", np.ones(2), *map(np.array, pair))
        assert np.isnan(row.difference)
        assert np.isnan(row.to_json()["difference"])
        assert contents._finite(contents._pass(Record(0.0, (row,)), True))["rows"][0]["difference"] == "NaN"
        assert " nan" in str(Record(0.0, (row,))).splitlines()[1]
    assert short(np.array([1.0, np.nan, 3.0, 4.0, 5.0])) == "nan to nan"
    assert Row("w", "parameter", "", np.ones(2), np.zeros(2), np.zeros(2)).difference == 0.0


def test_rows_of_one_name_keep_all_their_arrays():
    rows = [Row("x", kind, "", np.full(1, i), np.ones(1), np.ones(1)) for i, kind in enumerate(("output", "input"))]
    arrays = np.load(io.BytesIO(Record(0.0, tuple(rows)).to_npz()), allow_pickle=False)
    assert (arrays["x.value"], arrays["input x.value"]) == (0, 1)


def test_json_and_arrays_hold_every_number():
    example = mazur()
    data = json.loads(json.dumps(example.to_json()))
    arrays = np.load(io.BytesIO(example.to_npz()), allow_pickle=False)
    assert len(arrays) == 3 * len(data["rows"]) == 3 * len(example.rows)
    for row, as_json in zip(example.rows, data["rows"], strict=True):
        np.testing.assert_array_equal(arrays[f"{row.name}.by_hand"], row.by_hand)
        np.testing.assert_array_equal(as_json["value"], row.value)


@pytest.mark.slow
def test_the_command(tmp_path):
    files = [f"--{kind}={tmp_path / 'a'}.{kind}" for kind in ("json", "npz")]
    printed = command("trace.py", "--config=configs/xor.py", *files).stdout
    assert " ".join(printed.splitlines()[0].split()) == "name shape value by hand autodiff difference formula"
    assert json.loads((tmp_path / "a.json").read_text())["rows"]
    assert (tmp_path / "a.npz").stat().st_size > 0
