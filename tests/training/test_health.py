"""The health of a run: its figures are those of the pass and the step, and the run does not notice the looks."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.analysis.record import record
from jaxbp.compose import Chain
from jaxbp.core import Context
from jaxbp.data.pipeline import Dataset
from jaxbp.layers import Dense, ReLU, Sigmoid
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.optim import SGD
from jaxbp.training import loop
from jaxbp.training.feeds import make_feeds
from jaxbp.training.health import make_health
from jaxbp.training.loop import train
from jaxbp.training.step import initial_state, make_step
from tests.support.runs import small, weights


@pytest.mark.slow
def test_a_look_has_the_figures_of_the_pass_and_of_the_step(tmp_path):
    """Against the record of the same pass, and a step of plain gradient descent. Unit 0 of the ReLU is dead."""
    draw = np.random.default_rng(0)
    train_part = Dataset(draw.normal(size=(40, 3)).astype(np.float32), draw.integers(0, 2, 40).astype(np.int32))
    model = Chain(Dense(5), ReLU(), Dense(4, w_init="normal"), Sigmoid(), Dense(2))
    loss = SoftmaxCrossEntropy()
    optimizer = SGD(0.5).build(10)
    gradient = SGD(0.5).gradient(model, loss)
    step = make_step(gradient, optimizer)
    state = initial_state(model, optimizer, train_part.x[:40], 0)
    params = state.params | {"00_dense": {"w": state.params["00_dense"]["w"], "b": jnp.array([-9.0, 0, 0, 0, 0])}}
    state = replace(state, params=params)
    health = make_health(model, loss, step, train_part, True, 1, tmp_path / "health.jsonl")
    health.write(state, make_feeds(train_part, 0, False, 40)(0, 2), 0, 1)
    line = json.loads((tmp_path / "health.jsonl").read_text())
    batch = jax.tree.map(jnp.asarray, train_part.batch())
    table = record(model, loss, params, batch, Context(jax.random.key(0), state.model))
    rows = {row.name: row for row in table.rows}
    layers = line["layers"]
    about = lambda value: pytest.approx(float(value), rel=2e-3)
    assert line["loss"] == about(table.value)
    for name in ("00_dense", "02_dense", "04_dense"):
        leaves = [rows[f"{name}/w"], rows[f"{name}/b"]]
        assert layers[name]["gradient"] == about(np.sqrt(sum((row.by_hand**2).sum() for row in leaves)))
        assert layers[name]["update"] == about(0.5 * layers[name]["gradient"])
    for name, row in rows.items():
        if name in layers:
            assert layers[name]["delta"] == about(np.linalg.norm(row.by_hand))
            assert layers[name]["spread"] == about(row.value.std())
    slopes = rows["03_sigmoid"].value * (1 - rows["03_sigmoid"].value)
    assert layers["03_sigmoid"]["saturated"] == about((slopes < 0.05 / 4).mean())
    assert (layers["01_relu"]["stuck"], layers["01_relu"]["saturated"]) == (0.2, None)
    assert (line["doubled"], line["doubled_delta"], line["agreement"]) == (2.0, 2.0, pytest.approx(1, abs=0.01))
    wrong = rows["04_dense"].value.argmax(-1) != train_part.y
    assert line["errors"] == about(wrong.mean())


@pytest.mark.slow
def test_a_run_is_the_same_with_it_and_a_resumed_one_has_the_same_lines(tmp_path, monkeypatch, capsys):
    config = small(epochs=3, steps_per_call=4, checkpoint_seconds=0.0)
    looked = replace(config, run=replace(config.run, health_every=5))
    train(config, tmp_path / "off")
    train(looked, tmp_path / "on")
    assert weights(tmp_path / "on") == weights(tmp_path / "off")
    assert (tmp_path / "on/metrics.jsonl").read_bytes() == (tmp_path / "off/metrics.jsonl").read_bytes()
    assert not (tmp_path / "off/health.jsonl").exists()
    lines = (tmp_path / "on/health.jsonl").read_bytes()
    assert [json.loads(line)["step"] for line in lines.splitlines()] == [0, 5, 10, 15]

    class Ended(Exception):
        pass

    left = [3]

    def note(point):
        left[0] -= 1
        if not left[0]:
            raise Ended

    monkeypatch.setattr(loop, "reached", note)
    while True:  # ended at every third point, and started again
        try:
            train(looked, tmp_path / "parts")
            break
        except Ended:
            left[0] = 3
    assert (tmp_path / "parts/health.jsonl").read_bytes() == lines
    monkeypatch.undo()
    (tmp_path / "parts/health.jsonl").write_bytes(b"{}" + lines[2:])
    train(replace(looked, run=replace(looked.run, epochs=4)), tmp_path / "parts")
    assert "health.jsonl is not what this run has written" in capsys.readouterr().out
