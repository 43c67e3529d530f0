"""What a step costs on paper, against the layers themselves and closed forms."""

import re
from collections import Counter
from math import prod

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType

from jaxbp import Chain, Dense, Stack, Tanh
from jaxbp.backprop import value_and_grad
from jaxbp.core import Context, shaped
from jaxbp.devices import cost
from jaxbp.devices.cost import H100, SIZES, Cost, Size, Split, activation_bytes, best, splits
from jaxbp.devices.mesh import AXES
from jaxbp.devices.placement import Placement
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import GPT


def test_an_array_that_two_layers_keep_counts_once():
    model = Chain(Dense(5), Tanh(), Dense(3))
    assert activation_bytes(model, shaped(6, 4)) == 6 * 5 * 4  # tanh's output is the next layer's input


def test_a_stack_keeps_what_it_says():
    """All: of each of 7 blocks the input, which Dense keeps, and Tanh's output, which is the next block's input."""
    block = Chain(Dense(5), Tanh())
    assert activation_bytes(Stack(block, 7, "input"), shaped(6, 5)) == 7 * 6 * 5 * 4
    assert activation_bytes(Stack(block, 7), shaped(6, 5)) == 2 * 7 * 6 * 5 * 4
    half = jax.ShapeDtypeStruct((6, 5), jnp.bfloat16)
    assert activation_bytes(Stack(block, 7), half) == 2 * 7 * 6 * 5 * 2


@pytest.mark.slow
def test_counts_are_those_of_the_closed_forms():
    size = SIZES[0]
    counts = size.counts(1)
    d, depth, length = size.model.width, size.model.depth, size.length
    parameters = 50304 * d + length * d + depth * (12 * d * d + 13 * d) + 2 * d
    assert counts.parameters == parameters == 124_439_808 + 47 * d
    whole = length * d + depth * 6 * d + 2 * d  # on the tensor axis: positions, norms, and two biases a block
    assert size.counts(4).parameters == (parameters - whole) // 4 + whole
    block = 24 * d * d  # a token's products with weights, forward
    products = 3 * (depth * block + 2 * 50304 * d) + depth * block  # twice as many back, and each block's forward again
    attention = counts.operations - length * products  # and norms, GELU and the like
    all_pairs = 3 * depth * 4 * length * d + depth * 4 * length * d
    assert 0.5 < attention / (length * all_pairs) < 1  # blocks that no query sees are left out
    assert counts.kept >= 2 * depth * length * d  # a bfloat16 vector a block and token


def test_formulas(monkeypatch):
    """Of a made-up count, by hand."""
    size = cost.Size("small", SIZES[0].model, 64, 1024)
    monkeypatch.setattr(Size, "counts", lambda self, tensor: cost.Counts(1000, 1200, 2000, 300, 20))
    of = Cost(size, Split(2, 4, 2, 4))
    assert of.parameters == 4 * 1000 / 4
    assert of.optimizer == 2 * of.parameters
    assert of.gradients == 2 * of.parameters
    assert of.activations == (300 + 20) * 64 / 8 / 4
    assert of.operations == 2000 * 64 / 8
    assert of.gathers == 2 * 4 * 3 / 4 * 4 * 1200
    assert of.scatters == of.gathers / 2
    assert of.all_reduce == 2 * 1 / 2 * 1000
    assert of.tensor == 2 * 1 / 2 * ((5 * 12 + 2) * 2 * 768 + 12) * 64 * 1024 / 8
    assert all(split.devices == 16 and 64 % (split.data * split.fsdp) == 0 for split in splits(size, 16, H100))


@pytest.mark.slow
def test_the_best_split_fits():
    of = best(SIZES[0], 8, H100)
    assert of.memory <= H100.memory
    assert of.split.devices == 8
    assert best(SIZES[0], 8, cost.Device("none", 1, 1, 1, 1, 8)) is None


SMALL = Size("small", GPT(64, 32, 2, 2, context=16, keep="input", head="tied"), 8, 16)  # all sizes divisible by 8
SHAPE = re.compile(r"f32\[([\d,]*)\]")
KINDS = ("all-gather", "reduce-scatter", "all-reduce")


def collective_bytes(text: str) -> Counter:
    """{kind: bytes of the results of a compiled program's collectives}, of a loop's as often as it runs."""
    bodies = {}
    for computation in re.split(r"\n(?=(?:ENTRY )?%?[\w.\-]+ [^\n]*\{\n)", text):
        if name := re.match(r"(ENTRY )?%?([\w.\-]+) ", computation):
            bodies["ENTRY" if name[1] else name[2]] = computation.splitlines()[1:]
    total: Counter = Counter()

    def visit(name: str, times: int) -> None:
        for line in bodies.get(name, ()):
            for kind in KINDS:
                if f" {kind}(" in line:
                    shapes = SHAPE.findall(line.partition(f" {kind}(")[0])
                    total[kind] += times * sum(4 * prod(map(int, filter(None, shape.split(",")))) for shape in shapes)
            trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            assert trips or " while(" not in line, line
            for inner in re.findall(r"(?:body|to_apply|calls)=%?([\w.\-]+)", line):
                visit(inner, times * int(trips[1] if trips else 1))

    visit("ENTRY", 1)
    return total


@pytest.mark.parametrize(
    ("data", "fsdp", "tensor"),
    [pytest.param(*axes, marks=pytest.mark.slow if axes == (2, 2, 2) else pytest.mark.nightly)
     for axes in ((1, 1, 1), (2, 1, 1), (1, 2, 1), (4, 1, 1), (2, 2, 1), (1, 4, 1), (8, 1, 1), (4, 2, 1), (2, 4, 1),
                  (1, 8, 1), (1, 1, 2), (2, 1, 2), (1, 2, 2), (4, 1, 2), (1, 4, 2), (2, 2, 2))],
)  # fmt: skip
def test_the_formulas_are_what_a_compiled_program_does(data, fsdp, tensor):
    """Bytes of parameters, optimizer and collectives of a gradient, on simulated devices."""
    devices = jax.devices()[: data * fsdp * tensor]
    axes = (*AXES, "tensor")
    mesh = jax.make_mesh((data, fsdp, tensor), axes, axis_types=(AxisType.Auto,) * 3, devices=devices)
    model, loss = SMALL.model.build(), SoftmaxCrossEntropy(chunk=384)
    spec = jax.ShapeDtypeStruct((SMALL.rows, SMALL.length), jnp.int32)
    placement = Placement.of(mesh, model, loss, spec)

    def placed(tree):
        at = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
        return jax.tree.map(at, tree, placement.shardings(tree))

    def held(tree):
        return sum(4 * prod(a.sharding.shard_shape(a.shape)) for a in jax.tree.leaves(tree) if a.ndim)

    params = placed(jax.eval_shape(model.init, jax.random.key(0), spec))
    moments = placed(jax.eval_shape(optax.adam(1e-3).init, params))
    batch = {"x": spec, "y": spec, "weight": jax.ShapeDtypeStruct(spec.shape, jnp.float32)}
    gradient = placement.gradient(value_and_grad(placement.model, loss))
    program = jax.jit(lambda *of: gradient(*of)[:2]).lower(
        params, batch, Context(jax.random.key(0), model.init_state(spec))
    )
    moved = collective_bytes(program.compile().as_text())
    of = Cost(SMALL, Split(data, fsdp, tensor))
    print(moved, of.gathers, of.scatters, of.all_reduce)
    assert held(params) == of.parameters
    assert held(moments) == of.optimizer
    assert moved["reduce-scatter"] * (fsdp - 1) == of.scatters
    value = 4 * (data * fsdp > 1)  # the loss goes along
    sums = (5 * 2 + 2) * 4 * 32 + 12  # of activations a token: vectors here are float32
    reduced = moved["all-reduce"] - value - (sums * 8 * 16 // (data * fsdp) if tensor > 1 else 0)
    assert 2 * cost.ring(data) * reduced == of.all_reduce
    assert (
        0.8 * of.gathers <= cost.ring(fsdp) * moved["all-gather"] <= of.gathers
    )  # a bias is not needed on the way back
