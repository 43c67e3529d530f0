"""The worked examples of configs/examples, by name: what `jaxbp trace` shows of each, to 1e-12 in float64.

Digits are those of the publications, recomputed in plain Python at full precision; the files say where print is wrong.
"""

import json
import math

import jax
import numpy as np
import optax
import pytest

from jaxbp import Context, Softmax, value_and_grad
from jaxbp.analysis.record import record
from jaxbp.config import from_json, load, replace_keys, to_json
from jaxbp.data import Rows
from jaxbp.page.setting import setting
from tests.support.paths import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("float64")]
FILES = sorted(ROOT.glob("configs/examples/*.py"))
JAY = np.array([0.198446894232731, 0.2853555304250049, 0.5161975753422642])
GOLDEN = {  # example: the loss, then by row the values and the derivatives
    "two_by_two": (
        0.2983711087600027,
        {"01_sigmoid": [0.5932699921071872, 0.596884378259767], "03_sigmoid": [0.7513650695523157, 0.7729284653214625]},
        {
            "03_sigmoid": [0.7513650695523157 - 0.01, 0.7729284653214625 - 0.99],
            "02_dense": [0.13849856162855695, -0.038098236516556236],
            "02_dense/w": [0.08216704056423077, 0.08266762784753325, -0.02260254047747507, -0.022740242215978222],
            "00_dense/w": [4.385677344743465e-4, 8.77135468948693e-4, 4.977127352608599e-4, 9.954254705217198e-4],
        },
    ),
    "plus_times": (1.0, {"00_dense": [3, -4], "01_times": [-12]}, {"x": [-4, -4, 3], "00_dense": [-4, 3]}),
    "plus": (3.0, {"00_dense": [3]}, {"x": [1, 1]}),
    "times": (6.0, {"00_dense": [6]}, {"x": [2], "00_dense/w": [3]}),
    "neuron": (
        0.7310585786300049,
        {"00_dense": [1]},
        {
            "00_dense/w": [-0.19661193324148185, -0.3932238664829637],
            "00_dense/b": [0.19661193324148185],
            "x": [0.3932238664829637, -0.5898357997244456],
        },
    ),
    "squared_norm": (
        0.116,
        {"00_dense": [0.22, 0.26]},
        {"00_dense": [0.44, 0.52], "00_dense/w": [0.088, 0.176, 0.104, 0.208], "x": [-0.112, 0.636]},
    ),
    "test_scores": (
        None,
        {
            "00_dense": [7.6, 3.9, 6.5],
            "01_sigmoid": [0.9994997988929205, 0.9801596942659225, 0.998498817743263],
            "02_dense": [1.7885287026590662],
            "03_sigmoid": [0.8567467964249273],
        },
        {},
    ),
    "sine_1_2_1": (
        1.2608247530971957**2,
        {"01_sigmoid": [0.320821300824607, 0.3681875822638983], "02_dense": [0.4462820280893519]},
        {"02_dense": [-2.5216495061943913], "00_dense": [-0.04945093230795375, 0.0997219903504643]},
    ),
    "softmax_3_3_3_3": (
        1.6172337500003393,
        {
            "01_relu": [1.35, 1.27, 1.8],
            "03_sigmoid": [0.9388312894865416, 0.9404756340234984, 0.9820843048123673],
            "04_dense": [1.8670679715618874, 2.230282320573539, 2.8230360327250636],
        },
        {"04_dense": JAY - [1, 0, 0]},
    ),
    "ten_weights": (
        0.6794085670190007,
        {
            "00_dense": [4.3, 5.3],
            "01_sigmoid": [0.9866130821723351, 0.995033198349943],
            "03_sigmoid": [0.889550613969795, 0.9075703831277765],
        },
        {
            "02_dense/w": [0.07653512840587381, 0.07718830712860741, 0.07097544294843017, 0.07158117328606882],
            "00_dense/w": [
                *(0.00147731257045565, 0.0059092502818226, 0.007386562852278251),
                *(0.0007005705996805931, 0.0028022823987223725, 0.0035028529984029656),
            ],
        },
    ),
    "tiny_seeds": (
        None,
        {"01_sigmoid": [0.7105668883115941], "03_sigmoid": [0.6629970129852887, 0.7253160725279748]},
        {},
    ),
    "mind_xor": (0.7743802720529458**2 / 2, {"03_sigmoid": [0.7743802720529458]}, {"02_dense": [0.1352962103315636]}),
}


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def chain():
    h = sigmoid(0.5)
    f = sigmoid(2 * h)
    delta = f * f * (1 - f)
    inner = delta * 2 * h * (1 - h)
    return f * f / 2, {"03_sigmoid": [f]}, {"02_dense/w": [delta * h], "00_dense/w": [inner], "x": [inner / 2]}


def branching():
    i = sigmoid(0.6)
    j, k = sigmoid(0.8 * i), sigmoid(-0.6 * i)
    error = 0.7 * j + 0.9 * k - 1
    through_j, through_k = error * 0.7 * j * (1 - j) * 0.8, error * 0.9 * k * (1 - k) * -0.6
    deltas = {"01_sigmoid": [through_j + through_k], "00_dense/w": [(through_j + through_k) * i * (1 - i) * 2]}
    return error * error / 2, {"03_sigmoid": [j, k]}, deltas | {"04_dense/w": [error * j, error * k]}


def digit_two():
    """The 2 wishes to go up, all others down, and the farther a neuron is away the more."""
    outputs, target = np.array([0.5, 0.8, 0.2, 0.9, 0.4, 0.6, 0.9, 0.1, 0.2, 0.1]), np.arange(10) == 2
    wishes = np.array([-1.0, -1.6, 1.6, -1.8, -0.8, -1.2, -1.8, -0.2, -0.4, -0.2])
    delta = -wishes * outputs * (1 - outputs)
    w = np.arange(40).reshape(10, 4) % 7 / 4 - 0.75
    of_weights = {"00_dense": delta, "00_dense/w": np.outer(delta, [0.9, 0.1, 0.6, 0.0]).ravel(), "x": delta @ w}
    return sum((outputs - target) ** 2), {"01_sigmoid": outputs}, of_weights | {"01_sigmoid": -wishes}


GOLDEN |= {"chain": chain(), "branching": branching(), "digit_two": digit_two()}


def begun(name, examples=1):
    return setting(load(ROOT / f"configs/examples/{name}.py"), examples)


def traced(start):
    return record(start.model, start.config.loss, start.params, start.batch, start.ctx)


def close(numbers, golden):
    np.testing.assert_allclose(np.ravel(numbers), golden, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_golden_numbers(name):
    table = traced(begun(name))
    value, values, derivatives = GOLDEN[name]
    rows = {row.name: row for row in table.rows}
    if value is not None:
        close(table.value, value)
    for row, golden in values.items():
        close(rows[row].value, golden)
    for row, golden in derivatives.items():
        close(rows[row].by_hand, golden)
        close(rows[row].autodiff, golden)


def test_every_example_is_tested_names_its_command_and_survives_json():
    assert {path.stem for path in FILES} == {*GOLDEN, "three_samples", "encoder_8_3_8", "two_hidden", "four_guesses"}
    for path in FILES:
        config = load(path)
        assert f"jaxbp trace --config=configs/examples/{path.name}" in path.read_text()
        assert from_json(json.loads(json.dumps(to_json(config)))) == config


def trained(start, steps):
    """The parameters after that many steps of the config's own optimizer."""
    config, spec = start.config, start.spec
    optimizer = config.build_optimizer(config.run.epochs, spec)

    def step(_, state):
        params, memory = state
        result = value_and_grad(start.model, config.loss)(params, start.batch, start.ctx)
        updates, memory = optimizer.update(result.grads, memory, params, value=result.value)
        return optax.apply_updates(params, updates), memory

    run = jax.jit(lambda steps, params: jax.lax.fori_loop(0, steps, step, (params, optimizer.init(params)))[0])
    return [run(number, start.params) for number in steps]


def after(start, params):
    """The outputs and the loss with these parameters."""
    y, _ = start.model.forward(params, start.batch["x"], Context())
    return y, start.config.loss.forward(y, start.batch["y"], start.batch["weight"])[0]


def test_mazurs_steps_are_simultaneous_and_leave_the_biases():
    start = begun("two_by_two")
    one, many = trained(start, [1, 10_000])
    close(one["00_dense"]["w"], [0.1497807161327628, 0.19956143226552567, 0.24975114363236958, 0.29950228726473915])
    close(one["02_dense"]["w"], [0.35891647971788465, 0.4086661860762334, 0.5113012702387375, 0.5613701211079891])
    close(after(start, one)[1], 0.29102777369359933)
    outputs, value = after(start, many)
    close(outputs, [0.01591362044355068, 0.9840642735146238])
    close(value, 3.510187782978859e-05)
    for name in ("00_dense", "02_dense"):
        assert np.array_equal(many[name]["b"], start.params[name]["b"])


def test_the_textbooks_step():
    start = begun("sine_1_2_1")
    (one,) = trained(start, [1])
    close(one["02_dense"]["w"], [0.17089988748010126, -0.0771559964997334])
    close(one["02_dense"]["b"], [0.7321649506194392])
    close(one["00_dense"]["w"], [-0.2650549067692046, -0.4199721990350464])
    close(one["00_dense"]["b"], [-0.4750549067692046, -0.13997219903504643])


def test_the_published_softmax_is_rounded():
    start = begun("softmax_3_3_3_3")
    softmax = Softmax().forward({}, start.model.forward(start.params, start.batch["x"], Context())[0], Context())[0]
    close(softmax, JAY)
    np.testing.assert_allclose(softmax[0], [0.19858, 0.28559, 0.51583], atol=5e-4)


@pytest.mark.parametrize("name", ["plus", "times"])
def test_moving_an_input_by_one_moves_the_result_by_its_derivative(name):
    start = begun(name)
    f = lambda x: start.model.forward(start.params, x, Context())[0]
    moved = f(start.batch["x"].at[0, 0].add(1)) - f(start.batch["x"])
    close(moved, GOLDEN[name][2]["x"][0])


def test_a_batch_of_three_is_the_mean_of_three_single_ones():
    start = begun("three_samples", 3)
    table = traced(start)
    gradient = jax.jit(value_and_grad(start.model, start.config.loss))
    row = lambda i: {"x": start.batch["x"][i : i + 1], "y": start.batch["y"][i : i + 1], "weight": np.ones(1)}
    single = [gradient(start.params, row(i)) for i in range(3)]
    close(table.value, np.mean([result.value for result in single]))
    for row in table.rows:
        layer, _, leaf = row.name.partition("/")
        if leaf:
            np.testing.assert_allclose(
                row.by_hand, np.mean([result.grads[layer][leaf] for result in single], 0), rtol=1e-12, atol=1e-17
            )


def test_the_scores_weights_get_the_tutorials_delta_output_sum_added():
    """Enlight's d = (target - output) slope goes back through the output weights as they were before the step."""
    start = begun("test_scores")
    x, t = (np.asarray(start.batch[key]) for key in ("x", "y"))
    first, last = (np.asarray(start.params[name]["w"]) for name in ("00_dense", "02_dense"))
    hidden = sigmoid_of(x @ first.T)
    output = sigmoid_of(hidden @ last.T)
    delta_output_sum = (t - output) * output * (1 - output)
    delta_hidden_sum = delta_output_sum * last * hidden * (1 - hidden)
    (one,) = trained(start, [1])
    close(one["02_dense"]["w"], np.ravel(last + delta_output_sum * hidden))
    close(one["00_dense"]["w"], np.ravel(first + delta_hidden_sum.T * x))


def test_four_guesses_are_those_of_the_eleven_lines():
    start = begun("four_guesses", 4)
    y, truth = after(start, start.params)[0], start.batch["y"]
    assert y.shape == (4, 1)
    (params,) = trained(start, [10_000])
    errors = [float(abs(truth - guesses).mean()) for guesses in (y, after(start, params)[0])]
    np.testing.assert_allclose(errors, [0.496410031903, 0.00858452565325], rtol=1e-11)  # as printed


def test_the_picture_tutorials_update_is_a_step_down_the_gradient():
    """Neuron by neuron, as the pictures say: errors back through the weights, slopes in the update."""
    start = begun("two_hidden")
    weights = [np.asarray(start.params[name]["w"]) for name in ("00_dense", "02_dense", "04_dense")]
    outputs = [np.asarray(start.batch["x"][0])]
    for w in weights:
        outputs.append(sigmoid_of(w @ outputs[-1]))
    delta, moved = np.asarray(start.batch["y"][0]) - outputs[-1], []
    for w, x, y in zip(weights[::-1], outputs[-2::-1], outputs[::-1], strict=False):
        rate_delta_slope = [0.5 * delta[k] * y[k] * (1 - y[k]) for k in range(len(delta))]
        moved.append([[w[k, i] + rate_delta_slope[k] * x[i] for i in range(len(x))] for k in range(len(delta))])
        delta = [sum(w[k, i] * delta[k] * y[k] * (1 - y[k]) for k in range(len(delta))) for i in range(len(x))]
    (one,) = trained(start, [1])
    for name, golden in zip(("04_dense", "02_dense", "00_dense"), moved, strict=True):
        close(one[name]["w"], np.ravel(golden))


def test_the_encoder_finds_eight_codes():
    start = begun("encoder_8_3_8", 8)
    (params,) = trained(start, [5000])
    hidden = sigmoid_of(start.batch["x"] @ params["01_dense"]["w"].T + params["01_dense"]["b"])
    assert len({tuple(code) for code in np.round(hidden).tolist()}) == 8
    outputs = np.asarray(after(start, params)[0])
    assert np.all(np.where(np.eye(8), outputs > 0.9, outputs < 0.1))


def test_a_score_is_predicted_after_four_hours_of_study_and_eight_of_sleep():
    """The tutorial's three students are learnt. Hours are divided by the largest of each kind, scores by 100."""
    three = Rows(x=((2 / 3, 1.0), (1 / 3, 5 / 9), (1.0, 6 / 9)), y=((0.92,), (0.86,), (0.89,)))
    start = setting(replace_keys(load(ROOT / "configs/examples/test_scores.py"), {"data": three}), 3)
    (params,) = trained(start, [1000])
    assert after(start, params)[1] < 1e-4
    prediction = start.model.forward(params, np.array([[4 / 3, 8 / 9]]), Context())[0]
    np.testing.assert_allclose(prediction, 0.90975, atol=1e-5)  # the same descent in NumPy


def sigmoid_of(z):
    return 1 / (1 + np.exp(-np.asarray(z)))
