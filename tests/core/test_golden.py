"""Published worked examples, reproduced in float64 with the library's own layers, and the four equations by name.

Every number below was recomputed in plain Python at full precision from the published set-up. Where a publication's own
digits are not those of the step it describes, the test checks the step and says so:

* Mazur's step-by-step example keeps its biases fixed. His eight new weights are those of the simultaneous step that he
  describes, but his error after it, 0.291027924, and his outputs after 10,000 steps, 0.015912196 and 0.984065734, come
  from sequential updates (the hidden deltas sent back through output weights that were already changed). The error of
  the step itself is 0.291027774. His final 0.0000351085 is neither: his own outputs imply 0.0000350848.
* Jay's 3-3-3-3 example rounds its intermediates; his softmax .19858 .28559 .51583 is exactly .19845 .28536 .51620.
* Brownlee's deltas start from outputs that are not his network's: sigmoid of the bias alone.
* Mind's XOR example rounds the hidden layer to two digits: it prints .77469 for an output of exactly .77438. Its delta,
  -.1344, has that output rounded to .77 once more; the exact one is -.1353.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import Chain, Context, Dense, Graph, Node, ReLU, Sigmoid, SoftmaxCrossEntropy, SquaredError, value_and_grad

pytestmark = pytest.mark.usefixtures("strict")


def close(computed, expected):
    np.testing.assert_allclose(np.asarray(computed), np.asarray(expected), rtol=1e-12, atol=0)


def arrays(tree):
    """Numbers and lists as float64 arrays."""
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree, is_leaf=lambda node: isinstance(node, list))


def example(x, y):
    """A batch of one."""
    return arrays({"x": [x], "y": [y], "weight": [1]})


def with_values(model, *values):
    """The parameters of a chain whose dense layers have these (w, b), or (w,), in order; the tree is that of init."""
    spec = jaxbp.shaped(1, len(values[0][0][0]))
    specs = jax.eval_shape(model.init, jax.random.key(0), spec)
    remaining = iter(values)
    params = {
        name: arrays(dict(zip(sorted(leaves, reverse=True), next(remaining), strict=True))) if leaves else {}
        for name, leaves in specs.items()
    }
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, specs)
    return params


class Pass(NamedTuple):
    y: jax.Array
    outputs: dict  # of every layer
    value: jax.Array
    dx: jax.Array
    deltas: dict  # dy at the output of every layer
    grads: dict


@partial(jax.jit, static_argnums=(0, 1))
def run(model, loss, params, batch):
    """All numbers of one forward and one backward pass."""
    y, cache = model.forward(params, batch["x"], Context())
    value, loss_cache = loss.forward(y, batch["y"], batch["weight"])
    dx, deltas = model.sweep(jaxbp.rules.delta, params, cache, loss.backward(loss_cache))
    x, outputs = batch["x"], {}
    for _, name, layer in model.named():
        x, _ = layer.forward(params[name], x, Context())
        outputs[name] = x
    return Pass(y, outputs, value, dx, deltas, value_and_grad(model, loss)(params, batch).grads)


# --- Mazur, "A Step by Step Backpropagation Example" -------------------------------------------------------------

MAZUR, HALF_SUM, ETA = Chain((Dense(2), Sigmoid(), Dense(2), Sigmoid())), SquaredError("half_sum"), 0.5
WEIGHTS = with_values(MAZUR, ([[0.15, 0.20], [0.25, 0.30]], [0.35, 0.35]), ([[0.40, 0.45], [0.50, 0.55]], [0.60, 0.60]))
BATCH = example([0.05, 0.10], [0.01, 0.99])


def eight(tree):
    """w1..w8 or their gradients."""
    return np.concatenate([np.ravel(tree[name]["w"]) for name in ("00_dense", "02_dense")])


def moved(params, grads, *names):
    """Gradient descent on the weights of these layers; the biases stay."""
    step = lambda name: params[name] | {"w": params[name]["w"] - ETA * grads[name]["w"]}
    return params | {name: step(name) for name in names}


def simultaneous(params):
    return moved(params, value_and_grad(MAZUR, HALF_SUM)(params, BATCH).grads, "00_dense", "02_dense")


def sequential(params):
    """The output layer first; the hidden deltas then come back through its new weights, from the old cache."""
    y, cache = MAZUR.forward(params, BATCH["x"], Context())
    dy = HALF_SUM.backward(HALF_SUM.forward(y, BATCH["y"], BATCH["weight"])[1])
    params = moved(params, MAZUR.backward(params, cache, dy)[1], "02_dense")
    return moved(params, MAZUR.backward(params, cache, dy)[1], "00_dense")


@partial(jax.jit, static_argnums=0)
def after(step, steps):
    """The parameters after that many steps, in one loop."""
    return jax.lax.fori_loop(0, steps, lambda _, params: step(params), jax.tree.map(jnp.asarray, WEIGHTS))


def test_mazur_forward():
    first = run(MAZUR, HALF_SUM, WEIGHTS, BATCH)
    close(first.outputs["01_sigmoid"], [[0.5932699921071872, 0.596884378259767]])
    close(first.y, [[0.7513650695523157, 0.7729284653214625]])
    close((first.y - BATCH["y"]) ** 2 / 2, [[0.274811083176155, 0.023560025583847746]])
    close(first.value, 0.2983711087600027)


def test_mazur_deltas():
    """The hidden unit's share is a sum over both outputs: 0.0554 - 0.0190 = 0.0364."""
    deltas = run(MAZUR, HALF_SUM, WEIGHTS, BATCH).deltas
    close(deltas["03_sigmoid"], [[0.7513650695523157 - 0.01, 0.7729284653214625 - 0.99]])
    close(deltas["02_dense"], [[0.13849856162855695, -0.038098236516556236]])
    close(deltas["02_dense"][0] * WEIGHTS["02_dense"]["w"][:, 0], [0.05539942465142278, -0.019049118258278118])
    close(deltas["01_sigmoid"][0, 0], 0.03635030639314466)


def test_mazur_gradients():
    close(
        eight(run(MAZUR, HALF_SUM, WEIGHTS, BATCH).grads),
        [
            4.385677344743465e-4,
            8.77135468948693e-4,
            4.977127352608599e-4,
            9.954254705217198e-4,
            0.08216704056423077,
            0.08266762784753325,
            -0.02260254047747507,
            -0.022740242215978222,
        ],
    )


def test_mazur_one_step():
    params = after(simultaneous, 1)
    close(
        eight(params),
        [
            0.1497807161327628,
            0.19956143226552567,
            0.24975114363236958,
            0.29950228726473915,
            0.35891647971788465,
            0.4086661860762334,
            0.5113012702387375,
            0.5613701211079891,
        ],
    )
    close(run(MAZUR, HALF_SUM, params, BATCH).value, 0.29102777369359933)


def test_mazur_ten_thousand_steps():
    last = run(MAZUR, HALF_SUM, after(simultaneous, 10_000), BATCH)
    close(last.value, 3.510187782978859e-05)
    close(last.y, [[0.01591362044355068, 0.9840642735146238]])


def test_mazur_prints_the_errors_of_sequential_updates():
    params = after(sequential, 1)
    assert f"{eight(params)[0]:.9f}" == "0.149817639"  # he prints 0.149780716, the simultaneous one
    close(run(MAZUR, HALF_SUM, params, BATCH).value, 0.29102792390544197)
    last = run(MAZUR, HALF_SUM, after(sequential, 10_000), BATCH)
    close(last.value, 3.5084786296312774e-05)
    close(last.y, [[0.0159121963260343, 0.9840657344856291]])


def with_one_bias(params):
    """A step in which each layer has a single bias for its units, whose gradient is the sum of theirs."""
    grads = value_and_grad(MAZUR, HALF_SUM)(params, BATCH).grads
    grads = {name: g | {"b": jnp.full(2, jnp.sum(g["b"]))} if g else g for name, g in grads.items()}
    return jax.tree.map(lambda p, g: p - ETA * g, params, grads)


def test_mazur_with_trained_biases_is_another_example():
    grads = run(MAZUR, HALF_SUM, WEIGHTS, BATCH).grads
    params = jax.tree.map(lambda p, g: p - ETA * g, WEIGHTS, grads)
    assert f"{run(MAZUR, HALF_SUM, params, BATCH).value:.10f}" == "0.2804714468"
    close(run(MAZUR, HALF_SUM, with_one_bias(WEIGHTS), BATCH).value, 0.2857508866992965)
    last = run(MAZUR, HALF_SUM, after(with_one_bias, 10_000), BATCH)
    assert f"{last.value:.3e}" == "4.355e-06"


def test_a_small_step_lowers_the_error_by_the_squared_gradient():
    """E(p - h g) = E(p) - h |g|^2 + O(h^2)."""
    first, h = run(MAZUR, HALF_SUM, WEIGHTS, BATCH), 1e-6
    lower = run(MAZUR, HALF_SUM, jax.tree.map(lambda p, g: p - h * g, WEIGHTS, first.grads), BATCH)
    squared = sum(float(np.sum(np.square(g))) for g in jax.tree.leaves(first.grads))
    np.testing.assert_allclose((first.value - lower.value) / h, squared, rtol=1e-6)


# --- CS231n ------------------------------------------------------------------------------------------------------


def test_cs231n_neuron():
    """f = sigmoid(w0 x0 + w1 x1 + w2)."""
    model = Chain((Dense(1), Sigmoid()))
    params = with_values(model, ([[2, -3]], [-3]))
    f, cache = model.forward(params, arrays([[-1, -2]]), Context())
    dx, grads = model.backward(params, cache, arrays([[1]]))
    close(f, [[0.7310585786300049]])
    close(grads["00_dense"]["w"], [[-0.19661193324148185, -0.3932238664829637]])
    close(grads["00_dense"]["b"], [0.19661193324148185])
    close(dx, [[0.3932238664829637, -0.5898357997244456]])


def test_cs231n_squared_norm():
    """f = |W x|^2: the squared distance to 0."""
    model = Chain((Dense(2, bias=False),))
    params = with_values(model, ([[0.1, 0.5], [-0.3, 0.8]],))
    f = run(model, SquaredError("sum"), params, example([0.2, 0.4], [0, 0]))
    close(f.y, [[0.22, 0.26]])
    close(f.value, 0.116)
    close(f.deltas["00_dense"], [[0.44, 0.52]])
    close(f.grads["00_dense"]["w"], [[0.088, 0.176], [0.104, 0.208]])
    close(f.dx, [[-0.112, 0.636]])


@dataclass(frozen=True)
class Multiply(jaxbp.Layer):
    """The multiply gate: each input's gradient is the other input times the upstream one."""

    def forward(self, params, x, ctx):
        return x[0] * x[1], x

    def backward(self, params, x, dy):
        return (dy * x[1], dy * x[0]), {}


def test_cs231n_gates():
    """f = (x + y) z as a graph of two nodes."""
    nodes = (Node("q", jaxbp.Add(), ("x", "y")), Node("f", Multiply(), ("q", "z")))
    graph, params = Graph(nodes, inputs=("x", "y", "z")), {"q": {}, "f": {}}
    f, cache = graph.forward(params, tuple(arrays([v]) for v in (-2, 5, -4)), Context())
    (dx, dy, dz), _ = graph.backward(params, cache, arrays([1]))
    close([f, dx, dy, dz], [[-12], [-4], [-4], [3]])


# --- Textbooks and tutorials -------------------------------------------------------------------------------------


def test_hagan_chapter_11():
    """1-2-1 for 1 + sin(pi p / 4) at p = 1; e^2 without the half, learning rate 0.1, all parameters at once."""
    model, target = Chain((Dense(2), Sigmoid(), Dense(1))), 1 + np.sin(np.pi / 4)
    params = with_values(model, ([[-0.27], [-0.41]], [-0.48, -0.13]), ([[0.09, -0.17]], [0.48]))
    first = run(model, SquaredError("sum"), params, example([1], [target]))
    close(target, 1.7071067811865475)
    close(first.outputs["01_sigmoid"], [[0.320821300824607, 0.3681875822638983]])
    close(first.y, [[0.4462820280893519]])
    close(first.value, 1.2608247530971957**2)
    close(first.deltas["02_dense"], [[-2.5216495061943913]])
    close(first.deltas["00_dense"], [[-0.04945093230795375, 0.0997219903504643]])
    new = jax.tree.map(lambda p, g: p - 0.1 * g, params, first.grads)
    close(new["02_dense"]["w"], [[0.17089988748010126, -0.0771559964997334]])
    close(new["02_dense"]["b"], [0.7321649506194392])
    close(new["00_dense"]["w"], [[-0.2650549067692046], [-0.4199721990350464]])
    close(new["00_dense"]["b"], [-0.4750549067692046, -0.13997219903504643])


def test_jay_softmax():
    """3-3-3-3 with ReLU, sigmoid and softmax; he writes weights input-first."""
    model = Chain((Dense(3), ReLU(), Dense(3), Sigmoid(), Dense(3)))
    weights = (
        [[0.1, 0.2, 0.3], [0.3, 0.2, 0.7], [0.4, 0.3, 0.9]],
        [[0.2, 0.3, 0.5], [0.3, 0.5, 0.7], [0.6, 0.4, 0.8]],
        [[0.1, 0.4, 0.8], [0.3, 0.7, 0.2], [0.5, 0.2, 0.9]],
    )
    params = with_values(model, *((np.transpose(w).tolist(), [1, 1, 1]) for w in weights))
    first = run(model, SoftmaxCrossEntropy(), params, example([0.1, 0.2, 0.7], [1, 0, 0]))
    softmax = np.array([0.198446894232731, 0.2853555304250049, 0.5161975753422642])
    close(first.outputs["01_relu"], [[1.35, 1.27, 1.8]])
    close(first.outputs["03_sigmoid"], [[0.9388312894865416, 0.9404756340234984, 0.9820843048123673]])
    close(first.y, [[1.8670679715618874, 2.230282320573539, 2.8230360327250636]])
    close(first.value, 1.6172337500003393)
    close(first.deltas["04_dense"], [softmax - [1, 0, 0]])
    close(jaxbp.Softmax().forward({}, first.y, Context())[0], [softmax])
    np.testing.assert_allclose(softmax, [0.19858, 0.28559, 0.51583], atol=5e-4)  # as printed
    without_exp = first.y[0] / jnp.sum(first.y)
    np.testing.assert_allclose(without_exp, [0.2698, 0.3223, 0.4078], atol=2e-4)  # as printed before


BROWNLEE = Chain((Dense(1), Sigmoid(), Dense(2), Sigmoid()))
SEED_1 = with_values(  # random.seed(1) and then random.random() seven times
    BROWNLEE,
    ([[0.13436424411240122, 0.8474337369372327]], [0.763774618976614]),
    ([[0.2550690257394217], [0.4494910647887381]], [0.49543508709194095, 0.651592972722763]),
)


def test_brownlee_forward():
    first = run(BROWNLEE, HALF_SUM, SEED_1, example([1, 0], [0, 1]))
    close(first.outputs["01_sigmoid"], [[0.7105668883115941]])
    close(first.y, [[0.6629970129852887, 0.7253160725279748]])


def test_brownlee_deltas():
    """His are (expected - output) y (1 - y), so minus ours, from a cache that holds the outputs he starts from."""
    hidden, output = arrays([[0.7105668883115941]]), arrays([[0.6213859615555266, 0.6573693455986976]])
    close(output, [1 / (1 + np.exp(-SEED_1["02_dense"]["b"]))])
    cache = {"00_dense": arrays([[1, 0]]), "01_sigmoid": hidden, "02_dense": hidden, "03_sigmoid": output}
    deltas = BROWNLEE.sweep(jaxbp.rules.delta, SEED_1, cache, output - arrays([[0, 1]]))[1]
    close(-deltas["02_dense"], [[-0.14619064683582808, 0.0771723774346327]])
    close(-deltas["00_dense"], [[-0.0005348048046610517]])


def test_mind_xor():
    """No biases; his delta is (target - output) times the slope, so minus ours."""
    model = Chain((Dense(3, bias=False), Sigmoid(), Dense(1, bias=False), Sigmoid()))
    params = with_values(model, ([[0.8, 0.2], [0.4, 0.9], [0.3, 0.5]],), ([[0.3, 0.5, 0.9]],))
    first = run(model, HALF_SUM, params, example([1, 1], [0]))
    close(first.y, [[0.7743802720529458]])
    close(-first.deltas["02_dense"], [[-0.1352962103315636]])
    upper = {"00_dense": params["02_dense"], "01_sigmoid": {}}
    rounded = Chain(model.layers[2:]).forward(upper, arrays([[0.73, 0.79, 0.69]]), Context())[0]
    close(rounded, [[0.7746924929149283]])
    close(-0.77 * rounded * (1 - rounded), [[-0.1343989064388602]])


# --- The four equations of backpropagation -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def net():
    """A 3-5-4-2 sigmoid net on seven weighted examples: (a^0.., delta^1.., w and b, gradients, batch)."""
    model = Chain((Dense(5), Sigmoid(), Dense(4), Sigmoid(), Dense(2), Sigmoid()))
    random = np.random.default_rng(0)
    batch = {"x": random.normal(size=(7, 3)), "y": random.normal(size=(7, 2)), "weight": random.uniform(size=7)}
    values = [(random.normal(size=(o, i)), random.normal(size=o)) for i, o in [(3, 5), (5, 4), (4, 2)]]
    with jax.enable_x64(True):
        first = run(model, HALF_SUM, with_values(model, *values), batch)
        deltas, grads = (
            [arrays(tree[name]) for name in ("00_dense", "02_dense", "04_dense")]
            for tree in (first.deltas, first.grads)
        )
    a = [batch["x"]]
    for w, b in values:
        a.append(1 / (1 + np.exp(-(a[-1] @ w.T + b))))
    return a, deltas, values, grads, batch


def test_bp1_delta_of_the_output_layer(net):
    """delta^L = grad_a C * sigma'(z^L)."""
    a, deltas, _, _, batch = net
    close(deltas[-1], batch["weight"][:, None] * (a[-1] - batch["y"]) * a[-1] * (1 - a[-1]))


@pytest.mark.parametrize("layer", [0, 1])
def test_bp2_delta_in_terms_of_the_next_layer(net, layer):
    """delta^l = (w^(l+1))^T delta^(l+1) * sigma'(z^l), its entries one by one."""
    a, deltas, values, _, _ = net
    w, slope = values[layer + 1][0], a[layer + 1] * (1 - a[layer + 1])
    back = lambda d, j: sum(w[k, j] * d[k] for k in range(len(d)))
    entries = [[back(d, j) * s[j] for j in range(len(s))] for d, s in zip(deltas[layer + 1], slope, strict=True)]
    close(deltas[layer], entries)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_bp3_gradient_of_a_bias(net, layer):
    """dC/db^l_j = delta^l_j, summed over the batch."""
    _, deltas, _, grads, _ = net
    close(grads[layer]["b"], sum(deltas[layer]))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_bp4_gradient_of_a_weight(net, layer):
    """dC/dw^l_jk = a^(l-1)_k delta^l_j, summed over the batch."""
    a, deltas, _, grads, _ = net
    close(grads[layer]["w"], sum(np.outer(d, x) for d, x in zip(deltas[layer], a[layer], strict=True)))
