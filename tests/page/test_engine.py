"""The page's own engine, run by node, computes what jaxbp computes: several passes, and every planted mistake."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import jaxbp
from jaxbp import Chain, Dense, Flatten, LeakyReLU, ReLU, Sigmoid, Softmax, Softplus, Tanh
from jaxbp.config import Config, Run
from jaxbp.credit import FeedbackAlignment
from jaxbp.data import Rows
from jaxbp.losses import AbsoluteError, BinaryCrossEntropy, Penalty, SoftmaxCrossEntropy, SquaredError
from jaxbp.models import LayerModel
from jaxbp.optim import LBFGS, SGD, Adam, AdamW, Cosine, Group
from jaxbp.page.contents import recorded
from jaxbp.page.mistakes import STEPS, gradient_with, losses, mistakes
from jaxbp.page.network import network
from jaxbp.page.setting import setting

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("float64")]
ENGINE = Path(jaxbp.__file__).parent / "page/engine.js"
UPDATES = 3
PROGRAM = """
const engine = require(process.argv[1]);
const { net, updates, mistakes, rate } = JSON.parse(require("fs").readFileSync(0, "utf8"));
const passes = engine.train(net, net.params, net.batch, updates);
const planted = mistakes.map((m) => engine.train(net, net.params, net.batch, 10, { ...m, rate }).map((p) => p.value));
const [name, leaf] = [net.layers.find((layer) => layer.kind === "dense").name, "w"];
const differences = engine.differences(net, net.params, net.batch, name, leaf);
console.log(JSON.stringify({ passes, planted, differences }));
"""


def rows(targets, classes=()):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(3, 2)).tolist()
    return Rows(tuple(map(tuple, x)), targets, classes)


def config(data, model, loss, optimizer, **kwargs):
    return Config(data, model, loss, optimizer, Run(epochs=20, batch_size=None), **kwargs)


NUMBERS = ((0.3, -0.4), (1.2, 0.1), (-0.6, 0.5))
BITS = ((1.0, 0.0), (0.0, 0.0), (1.0, 1.0))
FREEZE = (Group(".*/b", learning_rate_factor=0), Group("01.*", learning_rate_factor=0.5), Group(".*"))
EXPERIMENTS = {
    "square": config(
        rows(NUMBERS),
        Chain(Dense(2, b_init="ones"), Sigmoid(), Dense(2, b_init="ones"), Tanh()),
        AbsoluteError(),
        SGD(0.5, momentum=0.9, nesterov=True, schedule=Cosine(warmup=0.2)),
    ),
    "classes": config(
        rows(((2.0,), (0.0,), (1.0,)), ("a", "b", "c")),
        Chain(Flatten(), Dense(4), LeakyReLU(0.1), Dense(3)),
        SoftmaxCrossEntropy(),
        SGD(0.3, momentum=0.5, groups=FREEZE),
        penalty=Penalty(l2=0.1, l1=0.01, paths="01_dense/."),
    ),
    "bits": config(
        rows(BITS), Chain(Dense(3), Softplus(), Dense(2)), BinaryCrossEntropy(), AdamW(0.1, weight_decay=0.1)
    ),
    "simplex": config(
        rows(NUMBERS), Chain(Dense(3), ReLU(), Dense(3), Tanh(), Dense(2), Softmax()), SquaredError("mean"), Adam(0.05)
    ),
}


def in_node(inputs):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    words = [node, "-e", PROGRAM, str(ENGINE)]
    done = subprocess.run(words, input=json.dumps(inputs), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def close(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert np.abs(ours - theirs).max() <= 1e-12 * max(np.abs(theirs).max(), 1e-3)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_computes_the_same_numbers(name):
    start = setting(EXPERIMENTS[name], 3)
    net = network(start, STEPS + 1)
    planted = list(mistakes(start)) if name == "square" else []
    described = [{"name": m.name, "layer": m.layer, "factor": m.factor} for m in planted]
    computed = in_node({"net": net, "updates": UPDATES, "mistakes": described, "rate": start.rate})
    for ours, table in zip(computed["passes"], recorded(start, UPDATES), strict=True):
        table_rows = {row.name: row for row in table.rows}
        close((ours["loss"], ours["penalty"]), (table.value, table.penalty or 0.0))
        for path, slopes in ours["slopes"].items():
            close(slopes, table_rows[f"penalty/{path}"].by_hand if np.any(slopes) else 0.0)
        close(ours["dx"], table_rows["x"].by_hand)
        for layer, output, delta in zip(net["layers"], ours["outputs"], ours["deltas"], strict=True):
            close(output, table_rows[layer["name"]].value)
            close(delta, table_rows[layer["name"]].by_hand)
            for leaf, gradient in ours["gradients"][layer["name"]].items():
                close(gradient, table_rows[f"{layer['name']}/{leaf}"].by_hand)
                close(ours["params"][layer["name"]][leaf], table_rows[f"{layer['name']}/{leaf}"].value)
    first = next(row for row in recorded(start, 0)[0].rows if row.name.endswith("/w"))
    np.testing.assert_allclose(computed["differences"], first.by_hand, atol=1e-8)
    for mistake, values in zip(planted, computed["planted"], strict=True):
        close(values, losses(start, gradient_with(start, mistake)))
    assert {m.name for m in planted} in (set(), {"slope", "mean", "transpose", "bias", "sign", "stepped"})


def test_what_it_cannot_compute_is_shown_as_recorded():
    base = EXPERIMENTS["bits"]
    others = [
        config(base.data, Chain(Dense(17), Tanh(), Dense(2)), base.loss, base.optimizer),
        config(base.data, LayerModel("Chain(Chain(Dense(3), Tanh()), Dense(2))"), base.loss, base.optimizer),
        config(base.data, Chain(Dense(2), jaxbp.GELU()), base.loss, base.optimizer),
        config(base.data, base.model, BinaryCrossEntropy(label_smoothing=0.1), base.optimizer),
        config(base.data, base.model, base.loss, SGD(0.1, clip_norm=1.0)),
        config(base.data, base.model, base.loss, LBFGS()),
        config(base.data, base.model, base.loss, base.optimizer, credit=FeedbackAlignment()),
    ]
    assert network(setting(base, 3), 2)
    for other in others:
        assert network(setting(other, 3), 2) is None, other


def test_mistakes_have_the_paths_of_their_layers():
    base = EXPERIMENTS["square"]
    model = Chain(Dense(2), jaxbp.residual(Chain(Dense(2), Tanh())), Dense(2))
    planted = list(mistakes(setting(config(base.data, model, base.loss, base.optimizer), 3)))
    assert [(mistake.name, mistake.layer) for mistake in planted] == [
        *(("slope", 2), ("mean", None), ("transpose", 1), ("bias", 0), ("sign", None), ("stepped", 1))
    ]
    assert "01_graph/body/01_tanh" in planted[0].text
    assert "01_graph/body/00_dense/w" in planted[2].text
