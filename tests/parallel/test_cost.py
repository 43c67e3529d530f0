"""What a step costs on paper, against the layers themselves and closed forms."""

import jax
import jax.numpy as jnp
import pytest

from jaxbp import Chain, Dense, Stack, Tanh
from jaxbp.core import shaped
from jaxbp.parallel import cost
from jaxbp.parallel.cost import H100, SIZES, Cost, Split, activation_bytes, best, splits


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
    d, depth, length = size.model.width, size.model.depth, size.length
    parameters = 50257 * d + length * d + depth * (12 * d * d + 13 * d) + 2 * d
    assert size.counts.parameters == parameters == 124_439_808
    block = 24 * d * d  # a token's products with weights, forward
    products = 3 * (depth * block + 2 * 50257 * d) + depth * block  # twice as many back, and each block's forward again
    attention = size.counts.operations - length * products  # and norms, GELU and the like
    all_pairs = 3 * depth * 4 * length * d + depth * 4 * length * d
    assert 0.5 < attention / (length * all_pairs) < 1  # blocks that no query sees are left out
    assert size.counts.kept >= 2 * depth * length * d  # a bfloat16 vector a block and token


def test_formulas():
    """Of a made-up count, by hand."""
    size = cost.Size("small", SIZES[0].model, 64, 1024)
    size.__dict__["counts"] = cost.Counts(1000, 2000, 300, 20)
    of = Cost(size, Split(2, 4, 2, 4))
    assert of.parameters == 4 * 1000 / 8
    assert of.optimizer == 2 * of.parameters
    assert of.gradients == 2 * of.parameters
    assert of.activations == (300 + 20 / 2) * 64 / 8 / 4
    assert of.operations == 2000 * 64 / 16
    assert of.gathers == 2 * 4 * 3 / 4 * 4 * 1000 / 2
    assert of.scatters == of.gathers / 2
    assert of.all_reduce == 2 * 1 / 2 * 500
    assert of.tensor == 2 * 1 / 2 * 6 * 12 * 2 * 64 * 1024 * 768 / 8
    assert all(split.devices == 16 and 64 % (split.data * split.fsdp) == 0 for split in splits(size, 16, H100))


@pytest.mark.slow
def test_the_best_split_fits():
    of = best(SIZES[0], 8, H100)
    assert of.memory <= H100.memory
    assert of.split.devices == 8
    assert best(SIZES[0], 8, cost.Device("none", 1, 1, 1, 1, 8)) is None
