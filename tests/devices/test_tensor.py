"""Layers that devices share by a letter give what one device gives, with the fewest sums over devices."""

import json
from collections import Counter
from dataclasses import replace
from math import gcd, prod

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

import jaxbp
from jaxbp import Chain, Conv, Dense, Dropout, Flatten, LayerNorm, Stack, Tanh
from jaxbp.backprop import value_and_grad
from jaxbp.commands.__main__ import main
from jaxbp.core import Case, Context, cast, leaf_layers, shaped
from jaxbp.data.text import standard_library
from jaxbp.devices.gathered import Shard
from jaxbp.devices.mesh import AXES, MeshShape
from jaxbp.devices.placement import Placement, shard_spec, shards_by_path
from jaxbp.devices.report import collectives, tensor_line
from jaxbp.devices.tensor import UNCUT, Split, shared
from jaxbp.layers import GELU, Attention, Embedding
from jaxbp.losses import SoftmaxCrossEntropy, SquaredError
from jaxbp.models import GPT, MLP
from jaxbp.training.loop import train
from jaxbp.training.run import load
from tests.support.meshes import CONFIGS, losses, session_of


def mesh_of(data: int, fsdp: int, tensor: int):
    names = (*AXES, "tensor")
    devices = jax.devices()[: data * fsdp * tensor]
    return jax.make_mesh((data, fsdp, tensor), names, axis_types=(AxisType.Auto,) * 3, devices=devices)


# --- layers -----------------------------------------------------------------------------------------------------------

CASES = [
    *((case, "O") for case in Dense.cases()),
    *((case, "I") for case in Dense.cases()),
    *((case, "V") for case in Embedding.cases()),
    *((case, "H") for case in Attention.cases() if gcd(*case.layer.letters.sizes.get("H", (1,))) > 1),
    (Case(Attention(4, key_heads=2, causal=True, buckets=4, reach=6), shaped(5, 7, 8), name="buckets"), "H"),
    (Case(Dropout(0.3), shaped(5, 3, 6)), "F"),
    (Case(GELU(), shaped(5, 3, 6)), "F"),
]
OFTEN = {"dense-time-O", "dense-time-I", "embedding-V", "attention-window-H", "dropout-F"}


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("case", "letter"),
    [
        pytest.param(
            case, letter, id=f"{case}-{letter}", marks=[] if f"{case}-{letter}" in OFTEN else pytest.mark.nightly
        )
        for case, letter in CASES
    ],
)
def test_a_split_layer_is_the_layer(case, letter):
    """The oracle is jax.vjp of the forward pass of one device."""
    layer = case.layer
    letters = layer.letters
    key = jax.random.key(0)
    x = cast(case.draw(key), jnp.float64)
    params = cast(jax.tree.map(lambda a: a + 0.3, layer.init(key, x)), jnp.float64)
    run = lambda params, x: layer.forward(params, x, Context(key))[0]
    has_ids = letters.input == ""
    y, back = jax.vjp(lambda params: run(params, x), params) if has_ids else jax.vjp(run, params, x)
    dy = jax.random.normal(key, y.shape, y.dtype)
    expected = (y, *back(dy), *((None,) if has_ids else ()))

    size = x.shape[-1] if letter in ("I", "F") else gcd(*letters.sizes[letter])
    parts = next(n for n in range(2, size + 1) if size % n == 0)
    split = Split(layer, letter, parts)
    shards = jax.tree.map(lambda leaf, cut: Shard(leaf, None, cut), params, split.cuts(params))
    spread = lambda shards: jax.tree.map(shard_spec, shards, is_leaf=lambda node: isinstance(node, Shard))

    def arranged(leaf, shard, back=False):
        order = shard.order(parts)
        return leaf if order is None else jnp.take(leaf, np.argsort(order) if back else order, shard.cut.dimension)

    def local(params, x, dy):
        y, cache = split.forward(params, x, Context(key, axes=AXES))
        dx, grads = split.backward(params, cache, dy)
        return y, grads, dx

    last = lambda a, is_split: PartitionSpec(*(None,) * (a.ndim - 1), "tensor") if is_split else PartitionSpec()
    ins = jax.tree.map(lambda a: last(a, letter == letters.input), x)
    out = last(y, letter == letters.output)
    program = jax.jit(
        jax.shard_map(
            local,
            mesh=mesh_of(1, 1, parts),
            in_specs=(spread(shards), ins, out),
            out_specs=(out, spread(shards), None if has_ids else ins),
            check_vma=False,
        )
    )
    split_y, grads, dx = program(jax.tree.map(arranged, params, shards), x, dy)
    grads = jax.tree.map(lambda leaf, shard: arranged(leaf, shard, back=True), grads, shards)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
    jax.tree.map(close, (split_y, grads, dx), expected)


# --- models -----------------------------------------------------------------------------------------------------------

GPTS = {
    "tied": GPT(24, 16, 2, 4, context=8, head="tied", dropout=0.1),
    "free": GPT(24, 16, 2, 4, context=8, gelu="tanh", keep="input", positions="rotary"),
    "reversible": GPT(24, 16, 2, 4, context=8, keep="inverse", positions="sinusoidal", dropout=0.1),
}


def model_setting(model, spec, classes):
    """(float64 parameters, a batch whose last rows do not count, a context)."""
    key = jax.random.key(0)
    x = jax.random.randint(key, spec.shape, 0, 24) if spec.dtype == jnp.int32 else jax.random.normal(key, spec.shape)
    items = spec.shape if spec.dtype == jnp.int32 else spec.shape[:1]
    weight = jnp.ones(items).at[-3:].set(0) / 40
    y = jax.random.randint(jax.random.key(1), items, 0, classes)
    params = cast(model.init(key, spec), jnp.float64)
    return params, {"x": x, "y": y, "weight": weight}, Context(key, model.init_state(spec))


def gradients(model, loss, mesh, spec, classes):
    """(placement, its gradient's program for the mesh, its arguments, the result of one device)."""
    params, batch, ctx = model_setting(model, spec, classes)
    alone = jax.jit(lambda *setting: value_and_grad(model, loss)(*setting)[:2])(params, batch, ctx)
    placement = Placement.of(mesh, model, loss, spec)
    gradient = placement.gradient(value_and_grad(placement.model, loss))
    arguments = (placement.put(placement.arranged(params), placement.shardings(params)), batch, ctx)
    program = jax.jit(lambda *setting: gradient(*setting)[:2]).lower(*arguments).compile()
    return placement, program, arguments, alone


def check_equal(placement, program, arguments, alone):
    value, grads = program(*arguments)
    np.testing.assert_allclose(value, alone[0], rtol=1e-11)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13), placement.fetched(grads), alone[1]
    )


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "axes", "chunk"),
    [
        ("tied", (2, 2, 2), None),
        pytest.param("free", (1, 1, 4), 16, marks=pytest.mark.nightly),
        pytest.param("free", (2, 2, 2), None, marks=pytest.mark.nightly),
        pytest.param("tied", (1, 2, 4), 16, marks=pytest.mark.nightly),
        pytest.param("reversible", (2, 1, 4), None, marks=pytest.mark.nightly),
    ],
)
def test_gradients_of_a_gpt_are_those_of_one_device(name, axes, chunk):
    """And what is split takes its part of the memory, and what is not is named."""
    loss = SoftmaxCrossEntropy(chunk=chunk, label_smoothing=0.1, z_loss=1e-3)
    placement, *rest = gradients(GPTS[name].build(), loss, mesh_of(*axes), shaped(8, 8, dtype=jnp.int32), 24)
    check_equal(placement, *rest)
    if name == "tied" and chunk is None:
        assert collectives(rest[0].as_text())["all-reduce", 1] == 4  # in a block, two forward and two backward
    whole = "positions, layernorm" if name == "tied" else "layernorm"
    assert tensor_line(placement).endswith(f"whole on each of its devices: {whole}, and biases that are added once")
    shards = [shard for _, shard in shards_by_path(placement.shards)]
    leaves = jax.tree.leaves(rest[1][0])
    split = [(a, shard) for a, shard in zip(leaves, shards, strict=True) if shard.cut != UNCUT]
    assert sum(a.size for a, _ in split) > 0.8 * sum(a.size for a in leaves)
    assert all(prod(a.sharding.shard_shape(a.shape)) * axes[1] * axes[2] == a.size for a, _ in split)


@pytest.mark.nightly
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("keep", ["all", "input"])
def test_a_block_has_two_sums_forward_and_two_backward(keep):
    """Around the blocks: the embedding's rows, the largest logit, the loss's two sums in one, and the head's delta.

    A block that runs again has one more: nobody needs its second sum then. (Shoeybi et al. 2019, figure 4.)
    """
    model = replace(GPTS["tied"], dropout=0.0, keep=keep).build()
    _, program, *_ = gradients(model, SoftmaxCrossEntropy(), mesh_of(1, 1, 4), shaped(8, 8, dtype=jnp.int32), 24)
    assert collectives(program.as_text()) == {("all-reduce", 0): 4, ("all-reduce", 1): 4 if keep == "all" else 5}


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_gradients_of_a_dense_net_are_those_of_one_device():
    """Two pairs of dense layers, one of them with dropout, and a last one by classes."""
    model = MLP(12, (8, 6, 16, 4), activation="gelu", dropout=0.1).build()
    placement, program, *rest = gradients(model, SoftmaxCrossEntropy(), mesh_of(2, 1, 4), shaped(8, 5), 12)
    check_equal(placement, program, *rest)
    kinds = Counter(kind for kind, _ in collectives(program.as_text()).elements())
    assert kinds == {"all-reduce": 2 + 1 + 3 + 1}  # forward; back, but not to the inputs; the loss's; the gradient's


def split_names(model, loss, parts, classes=True):
    """The letters by which the leaf layers are split; "" where they are not."""
    return [
        leaf.letter if isinstance(leaf, Split) else "" for leaf in leaf_layers(shared(model, loss, parts, 8, classes))
    ]


def test_what_is_split():
    loss = SoftmaxCrossEntropy()
    dense = Chain(Dense(8), Tanh(), Dropout(0.1), Dense(6), Dense(4))
    assert split_names(dense, loss, 2) == ["O", "F", "F", "I", "O"]
    assert split_names(dense, SquaredError(), 2) == ["O", "F", "F", "I", ""]
    assert split_names(dense, loss, 2, classes=False) == ["O", "F", "F", "I", ""]
    assert split_names(dense, replace(loss, chunk=3), 8) == ["O", "F", "F", "I", ""]
    assert split_names(Chain(Conv(4, (3, 3)), Flatten(), Dense(4)), loss, 2) == ["", "", "O"]
    assert split_names(Chain(Dense(8), LayerNorm(), Dense(4)), loss, 2) == ["", "", "O"]
    tied = GPT(10, 8, 1, 2, context=4, head="tied").build()
    assert split_names(tied, loss, 2)[:: len(leaf_layers(tied)) - 1] == ["V", "O"]
    assert split_names(tied, SquaredError(), 2)[0] == ""
    odd = GPT(11, 8, 1, 2, context=4, head="tied").build()
    assert split_names(odd, loss, 2)[0] == split_names(odd, loss, 2)[-1] == ""


@pytest.mark.parametrize(
    ("model", "parts", "words"),
    [
        (Chain(Dense(6), Tanh(), Dense(3)), 4, r"tensor=4 does not divide 6, .* units .*; run.mesh.tensor=2 does"),
        (Stack(Chain(Attention(6)), 2), 4, r"tensor=4 does not divide 6, .* heads.*; run.mesh.tensor=2 does"),
        (Attention(4, key_heads=1), 2, r"tensor=2 does not divide 1, .* heads.*; run.mesh.tensor=1 does"),
        (Chain(Conv(4, (3, 3)), Flatten(), Dense(3)), 2, "the model has nothing that so many devices can share"),
        (Attention(4, alibi=True), 2, "the model has nothing that so many devices can share"),
    ],
)
def test_what_cannot_be_split(model, parts, words):
    with pytest.raises(jaxbp.InputError, match=words):
        shared(model, SoftmaxCrossEntropy(), parts, 8, True)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--config.run.mesh.tensor=3"], "data=1 x fsdp=1 x tensor=3 is no mesh of 8 devices; run.mesh.data=4 with "
         "run.mesh.fsdp=1 and run.mesh.tensor=2 is one"),
        (["--config.run.mesh.tensor=8", "--config.model.hidden=(28,)"], "does not divide 28, which the model has of"),
        (["--config.run.mesh.data=4", "--config.run.mesh.tensor=2", "--config.run.batch_size=30"],
         "30 examples does not divide among 4 parts of the mesh; run.batch_size=28 does"),
    ],
)  # fmt: skip
def test_what_is_refused_takes_one_line(words, line, tmp_path, capsys):
    assert main(["train", "digits_mlp", f"--workdir={tmp_path / 'run'}", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert line in error


def test_an_optimizer_keeps_arrays_like_the_parameters():
    """Rows of one array lie in the order of the devices, and in one of another shape nobody could tell them."""
    model, spec = GPTS["tied"].build(), shaped(8, 8, dtype=jnp.int32)
    placement = Placement.of(mesh_of(1, 1, 4), model, SoftmaxCrossEntropy(), spec)
    params = jax.eval_shape(model.init, jax.random.key(0), spec)
    placement.check_optimizer(jax.eval_shape(optax.adam(1e-3).init, params))
    with pytest.raises(jaxbp.InputError, match=r"keeps \[2\] of .*/qkv/b \[2, 48\]; it must"):
        placement.check_optimizer(jax.eval_shape(optax.adafactor(min_dim_size_to_factor=2).init, params))


# --- runs -------------------------------------------------------------------------------------------------------------


def on(config, axes, **run):
    return replace(config, run=replace(config.run, mesh=MeshShape(*axes), **run))


def config_of(name, tmp_path):
    """A config whose heads, units and classes 4 devices divide."""
    config = CONFIGS[name]
    if name == "dense":
        return config
    text = tmp_path / "text"
    text.write_text("äöü" + standard_library()[:4000])  # 100 classes
    return replace(config, data=replace(config.data, path=str(text)), model=replace(config.model, heads=4, outputs=100))


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "axes"), [(name, axes) for name in ("dense", "transformer") for axes in ((4, 1, 2), (2, 1, 4), (2, 2, 2))]
)
def test_losses_are_those_of_one_device(name, axes, tmp_path):
    """With dropout between and around what is split, micro-batches, clipping and a ragged last batch."""
    config = config_of(name, tmp_path)
    alone = losses(*session_of(config, tmp_path), 50)
    np.testing.assert_allclose(losses(*session_of(on(config, axes), tmp_path), 50), alone, rtol=1e-6)
    assert abs(alone[-1] - alone[0]) > 1e-3


@pytest.mark.nightly
def test_a_run_goes_on_on_other_devices(tmp_path, capsys):
    """Metrics to 1e-6, and the weights on disk with the heads in their own order.

    The biases of the keys are left out: their gradient is 0, and Adam makes steps of its rounding.
    """
    config = replace(config_of("transformer", tmp_path), run=replace(CONFIGS["transformer"].run, epochs=1))
    meshes = {"one": [(1, 1, 1)] * 2, "other": [(2, 1, 4), (1, 1, 1)], "split": [(4, 1, 2), (2, 2, 2)]}
    rows, kernels = {}, {}
    for name, (first, then) in meshes.items():
        train(on(config, first), tmp_path / name)
        train(on(config, then, epochs=2), tmp_path / name)
        assert ("the tensor axis splits" in capsys.readouterr().out) == (name != "one")
        rows[name] = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        kernels[name] = [a for a in jax.tree.leaves(load(tmp_path / name).params) if a.ndim == 3]
    for name in ("other", "split"):
        for row, expected in zip(rows[name], rows["one"], strict=True):
            assert row == pytest.approx(expected, rel=1e-6)
        for a, b in zip(kernels[name], kernels["one"], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert main(["evaluate", f"--run={tmp_path / 'split'}"]) == 0
    assert main(["sample", f"--run={tmp_path / 'split'}", "--length=4"]) == 0
