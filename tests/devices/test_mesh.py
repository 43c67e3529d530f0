"""A mesh changes nothing but where the work is done: losses, gradients, collectives, bytes, and what it refuses."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import environment, optim
from jaxbp.backprop import value_and_grad
from jaxbp.check import autodiff
from jaxbp.commands import rate
from jaxbp.commands.__main__ import main
from jaxbp.config import kinds_of, replace_keys
from jaxbp.core import Context, cast
from jaxbp.credit import ContrastiveHebbian, Credit, EquilibriumPropagation, PredictiveCoding
from jaxbp.devices.mesh import AXES, MeshShape, check_batch
from jaxbp.devices.placement import ROWS, WHOLE, Placement
from jaxbp.devices.report import collectives, device_bytes
from jaxbp.layers import Whitening
from jaxbp.losses import SquaredError
from jaxbp.models import FeedbackMLP
from jaxbp.optim import OptimizerConfig
from jaxbp.training.loop import train
from jaxbp.training.step import accumulated
from tests.support.conformance import all_cases
from tests.support.marks import but_at_night
from tests.support.meshes import CONFIGS, losses, on, session_of
from tests.support.runs import weights


def mesh_of(data: int, fsdp: int):
    return MeshShape(data, fsdp).build()


@pytest.mark.slow
@pytest.mark.parametrize("name", but_at_night(CONFIGS, "dense", "recurrent", "transformer"))
def test_losses_are_those_of_one_device(name, tmp_path):
    """Dropout, augmentation, batch norm, masks, micro-batches, clipping and a ragged last batch among them."""
    alone = losses(*session_of(CONFIGS[name], tmp_path), 50)
    shared = losses(*session_of(on(CONFIGS[name], 4, 2), tmp_path), 50)
    np.testing.assert_allclose(shared, alone, rtol=1e-6)
    assert abs(alone[-1] - alone[0]) > 1e-3


OPTIMIZERS = {name: cls for name, cls in kinds_of(OptimizerConfig).items() if cls and not cls.gradient_alone}
PARTED = {  # what asks more of a batch than its gradient
    "private": {"optimizer": optim.SGD(0.05, private=optim.Private(memory="recomputed")), "run.micro_batches": 2},
    "noise": {"run.noise_scale_every": 3},
    **{f"credit-{name}": {"credit": cls()} for name, cls in kinds_of(Credit).items() if cls and not cls.exact},
    **{f"optimizer-{name}": {"optimizer": cls()} for name, cls in OPTIMIZERS.items()},
}
PARTED |= {  # with the defaults it does not settle on this net, diverges, or is sensitive to one unit in the last place
    "credit-PredictiveCoding": {"credit": PredictiveCoding(), "model.activation": "tanh"},
    "optimizer-NaturalGradient": {"optimizer": optim.NaturalGradient(0.01)},
    "optimizer-GaussNewton": {"optimizer": optim.GaussNewton(damping=0.1)},
}
SQUARED = {"loss": SquaredError("half_sum"), "data.one_hot": True}
ONE_LAYER = SQUARED | {"model.hidden": ()}
SETTLING = SQUARED | {"model": FeedbackMLP(outputs=3, hidden=(8,))}
PARTED |= {  # these are defined for another loss, or for another net
    "credit-ContrastiveHebbian": SETTLING | {"credit": ContrastiveHebbian()},
    "credit-EquilibriumPropagation": SETTLING | {"credit": EquilibriumPropagation()},
    "optimizer-LevenbergMarquardt": SQUARED | {"optimizer": optim.LevenbergMarquardt()},
    "optimizer-Adaline": ONE_LAYER | {"optimizer": optim.Adaline(0.1)},
    "optimizer-DeltaRule": ONE_LAYER | {"optimizer": optim.DeltaRule(0.01)},
    "optimizer-Perceptron": ONE_LAYER | {"optimizer": optim.Perceptron()},
}
AMPLIFIED = {  # in float32: a small difference is divided by a small number, or a sign is taken
    *("credit-SignSymmetric", "credit-PredictiveCoding", "optimizer-FiniteDifferences", "optimizer-GaussNewton"),
    *("optimizer-NaturalGradient", "optimizer-Newton", "optimizer-SPSA"),
}
PRECISIONS = {
    **{f"{name}-float32": (keys, "float32", 1e-6) for name, keys in PARTED.items() if name not in AMPLIFIED},
    **{f"{name}-float64": (keys, "float64", 1e-11) for name, keys in PARTED.items()},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", but_at_night(PRECISIONS, *(PRECISIONS.keys() - {"credit-FeedbackAlignment-float32"})))
def test_what_asks_for_more_than_a_gradient_has_the_losses_of_one_device(name, tmp_path):
    """Privacy, with the noise of one device, credit rules, and optimizers of second order or without a gradient."""
    keys, dtype, tolerance = PRECISIONS[name]
    config = replace_keys(CONFIGS["dense"], {"run.micro_batches": 1, "model.dropout": 0.0} | keys)
    with jax.enable_x64(dtype == "float64"):
        session, state = session_of(config, tmp_path)
        parted, begun = session_of(on(config, 4, 2), tmp_path)
        if dtype == "float64":  # what a credit rule draws in float32 may differ in the last digit
            begun = parted.placement.placed({"state": state, "best": None}, begun)["state"]
        alone = losses(session, state, 8, dtype)
        shared = losses(parted, begun, 8, dtype)
    print(f"{name}: {np.max(np.abs(shared / alone - 1)):.1e}")
    np.testing.assert_allclose(shared, alone, rtol=tolerance)
    assert abs(alone[-1] - alone[0]) > 1e-4


@pytest.mark.slow
def test_a_look_at_a_run_sees_what_it_sees_on_one_device(tmp_path):
    """The figures, which have four digits. Each of the devices sees the probe whole."""
    config = replace_keys(CONFIGS["dense"], {"run.health_every": 1, "run.micro_batches": 1})
    lines = []
    for name, axes in (("alone", (1, 1)), ("shared", (4, 2))):
        (tmp_path / name).mkdir()
        session, state = session_of(on(config, *axes), tmp_path / name)
        session.health.write(state, session.feeds()(0, 1), 3, 2)
        lines.append(json.loads((tmp_path / name / "health.jsonl").read_text()))
    assert len(lines[0]["layers"]) == 8
    figures = [jax.tree.leaves(line) for line in lines]
    assert figures[1] == pytest.approx(figures[0], rel=2e-3, abs=1e-5)


def sharded_layer(layer, mesh):
    """(params, x, counts, state, dy) -> (y, dx, summed gradients, next state) of devices that share the rows."""

    def local(params, x, counts, state, dy):
        y, cache = layer.forward(params, x, Context(state=state, counts=counts, axes=AXES))
        dx, grads = layer.backward(params, cache, dy)
        return y, dx, jax.lax.psum(grads, AXES), layer.next_state(state, cache)

    specs = (WHOLE, ROWS, ROWS, WHOLE, ROWS)
    return jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=(ROWS, ROWS, WHOLE, WHOLE), check_vma=False)
    )


@pytest.mark.slow
@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(
    ("case", "counting"),
    [
        pytest.param(case, counting, id=f"{case}-{counting}", marks=[] if counting == "some" else pytest.mark.nightly)
        for case in all_cases()
        for counting in ("all", "some", "none")
        if case.layer.couples_batch
        and not (isinstance(case.layer, Whitening) and counting == "none")  # JAX's derivative of eigh is nan there
    ],
)
def test_a_layer_that_couples_its_batch_sees_the_whole_batch(case, counting):
    """The oracle is jax.vjp of the forward pass of one device. With "some" a device has no row that counts."""
    layer = case.layer
    if isinstance(layer, Whitening) and counting == "none":
        pytest.skip("JAX's derivative of eigh is nan for equal values")
    x, dy = jax.random.normal(jax.random.key(0), (2, 16, *case.spec.shape[1:]), jnp.float64) + 1
    counts = None if counting == "all" else jnp.arange(16) < (11 if counting == "some" else 0)
    params = cast(jax.tree.map(lambda a: a + 0.3, layer.init(jax.random.key(1), x)), jnp.float64)
    state = cast(layer.init_state(x), jnp.float64)
    ctx = Context(state=state, counts=counts)
    y, back, cache = jax.vjp(lambda p, x: layer.forward(p, x, ctx), params, x, has_aux=True)
    grads, dx = back(dy)
    shared = sharded_layer(layer, mesh_of(4, 2))(params, x, counts, state, dy)
    expected = (y, dx, grads, layer.next_state(state, cache))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-11), shared, expected)


def gradient_setting(name, rows=16):
    """(config, model, inputs' spec, float64 parameters, a ragged batch, a context)."""
    config = CONFIGS[name]
    train = config.load_data().train
    part = train.take(np.arange(rows))
    mask = np.ones(part.counting().shape, np.float64)
    mask[-3:] = 0
    x = jnp.asarray(part.x, jnp.float64 if np.issubdtype(part.x.dtype, np.floating) else part.x.dtype)
    batch = {"x": x, "y": jnp.asarray(part.y), "weight": jnp.asarray(mask / mask.sum())}
    model = config.build_model()
    spec = jax.ShapeDtypeStruct(x.shape, x.dtype)
    params = cast(model.init(jax.random.key(0), spec), jnp.float64)
    return config, model, spec, params, batch, Context(jax.random.key(1), cast(model.init_state(spec), jnp.float64))


def shared_gradient(config, model, spec, mesh, micro_batches=1):
    """(placement, the gradient on the mesh)."""
    placement = Placement.of(mesh, model, config.loss, spec, micro_batches)
    gradient = value_and_grad(placement.model, config.loss)
    return placement, placement.gradient(accumulated(gradient, micro_batches) if micro_batches > 1 else gradient)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", but_at_night(CONFIGS, "dense", "convolution", "recurrent"))
def test_gradients_are_those_of_one_device(name):
    config, model, spec, params, batch, ctx = gradient_setting(name)
    placement, gradient = shared_gradient(config, model, spec, mesh_of(2, 4))
    assert config.loss.prepared(placement.model) == placement.model  # a last layer that is put off is so once
    alone = jax.jit(value_and_grad(model, config.loss))(params, batch, ctx)
    shared = jax.jit(gradient)(params, batch, ctx)
    for ours, expected in ((shared.value, alone.value), (shared.grads, alone.grads), (shared.state, alone.state)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13), ours, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("micro_batches", but_at_night([1, 2], 1))
def test_one_all_reduce_a_step(micro_batches):
    """Data parallel: with micro-batches and in a Stack too. The compiler's own partition of autodiff has more."""
    config, model, spec, params, batch, ctx = gradient_setting("transformer")
    counted = {}
    mesh = mesh_of(8, 1)
    config = replace(config, loss=replace(config.loss, chunk=None))
    _, ours = shared_gradient(config, model, spec, mesh, micro_batches)
    theirs = autodiff(model, config.loss)
    theirs = accumulated(theirs, micro_batches) if micro_batches > 1 else theirs
    rows = jax.sharding.NamedSharding(mesh, ROWS)
    everywhere = jax.sharding.NamedSharding(mesh, WHOLE)
    for who, gradient in (("ours", ours), ("autodiff", lambda *setting: theirs(*setting)[:2])):
        program = jax.jit(gradient, in_shardings=(everywhere, rows, everywhere), out_shardings=everywhere)
        counted[who] = collectives(program.lower(params, batch, ctx).compile().as_text())
    assert counted["ours"] == {("all-reduce", 0): 1}
    assert counted["autodiff"]["all-reduce", micro_batches] == 1  # in the innermost loop


@pytest.mark.slow
@pytest.mark.parametrize("axes", but_at_night([(1, 8), (2, 4)], (2, 4)))
def test_fsdp_splits_parameters_and_optimizer(axes, tmp_path):
    config = replace(CONFIGS["dense"], model=replace(CONFIGS["dense"].model, outputs=3, hidden=(64, 64)))
    _, alone = session_of(config, tmp_path)
    _, shared = session_of(on(config, *axes), tmp_path)
    for whole, split in ((alone.params, shared.params), (alone.optimizer, shared.optimizer)):
        assert device_bytes(split) <= 1.1 * device_bytes(whole) / axes[1]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(shared.params), jax.device_get(alone.params))


def test_a_program_tells_its_collectives():
    def total(x):
        inside = lambda i, y: y + jax.lax.psum(y, "data")
        return jax.lax.fori_loop(0, 3, inside, jax.lax.psum((x, 2 * x), "data")[0])

    mesh = mesh_of(8, 1)
    program = jax.jit(jax.shard_map(total, mesh=mesh, in_specs=ROWS, out_specs=ROWS, check_vma=False))
    text = program.lower(jnp.ones(8)).compile().as_text()
    assert collectives(text) == {("all-reduce", 0): 1, ("all-reduce", 1): 1}
    with pytest.raises(ValueError, match="no ENTRY"):
        collectives("")


@pytest.mark.parametrize(
    ("shape", "devices", "words"),
    [
        ((3, 1), 8, "data=3 x fsdp=1 is no mesh of 8 devices; run.mesh.data=8 with run.mesh.fsdp=1 is one"),
        ((3, 3), 8, "data=3 x fsdp=3 is no mesh of 8 devices; run.mesh.data=4 with run.mesh.fsdp=2 is one"),
        ((-1, 3), 8, "data=-1 x fsdp=3 cannot be a mesh of 8 devices; run.mesh.data=4 with run.mesh.fsdp=2 is one"),
        ((16, 1), 1, r"of 1 device; run.mesh.data=1 .* \(JAX_NUM_CPU_DEVICES=16 in the environment simulates 16"),
        ((10**20, 1), 1, "of 1 device; run.mesh.data=1 with run.mesh.fsdp=1 is one$"),  # nobody simulates so many
    ],
)
def test_a_mesh_that_is_not_the_devices(shape, devices, words):
    with pytest.raises(jaxbp.InputError, match=words):
        MeshShape(*shape).sizes(devices)


def test_the_rest_of_the_devices():
    assert MeshShape(-1, 2).sizes(8) == {"data": 4, "fsdp": 2}
    assert MeshShape(2, -1).sizes(8) == {"data": 2, "fsdp": 4}
    assert MeshShape(-1).build().shape == {"data": 8, "fsdp": 1}
    assert MeshShape().build() is None
    for shape in ((-1, -1), (0, 1), (-2, 1)):
        with pytest.raises(jaxbp.InputError, match=r"MeshShape.*-1"):
            MeshShape(*shape)


def test_a_batch_that_does_not_divide():
    check_batch(mesh_of(8, 1), 32, 2, 100)
    with pytest.raises(jaxbp.InputError, match=r"30 examples does not divide among 8 devices; run.batch_size=32 does"):
        check_batch(mesh_of(8, 1), 30, 1, 100)
    with pytest.raises(jaxbp.InputError, match=r"8 devices and 2 micro-batches; run.batch_size=16 does"):
        check_batch(mesh_of(8, 1), 24, 2, 30)
    with pytest.raises(jaxbp.InputError, match=r"only 7 training examples, .* can be data=1 x fsdp=1 x tensor=1$"):
        check_batch(mesh_of(8, 1), 7, 1, 7)
    with pytest.raises(jaxbp.InputError, match=r"can be data=4 x fsdp=1 x tensor=2 where .*, or data=1 x fsdp=1"):
        check_batch(mesh_of(8, 1), 4, 1, 4)
    with pytest.raises(jaxbp.InputError, match=r"can be data=2 x fsdp=1 x tensor=4 where"):
        check_batch(mesh_of(2, 4), 4, 2, 4)


@pytest.mark.parametrize("words", [["rate", "xor"], ["search", "xor"]], ids=lambda words: words[0])
@pytest.mark.parametrize("mesh", ["data=3", "data=-1", "tensor=2"])
def test_what_uses_one_device_refuses_a_mesh(words, mesh, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*words, f"--config.run.mesh.{mesh}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(rf"uses one device: run.mesh must be data=1, fsdp=1, tensor=1, got .*{mesh}", line)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--config.run.mesh.data=3"], "run.mesh: data=3 x fsdp=1 is no mesh of 8 devices; run.mesh.data=8"),
        (["--config.run.mesh.data=0"], "--config.run.mesh.data"),
        (["--config.run.mesh.data=8", "--config.run.batch_size=60"], "60 examples does not divide among 8 devices;"),
    ],
)
def test_what_is_refused_takes_one_line(words, line, tmp_path, capsys):
    assert main(["train", "digits_mlp", f"--workdir={tmp_path / 'run'}", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert line in error
    assert not (tmp_path / "run").exists()


class Killed(Exception):
    pass


@pytest.mark.slow
def test_a_run_goes_on_on_other_devices(tmp_path, monkeypatch, capsys):
    """Ended on 8 devices and gone on with: on the same to the bit, on 1 and on 4 x 2 with the same losses to 1e-6."""
    config = on(CONFIGS["dense"], 8, 1, epochs=3, evaluate_every=1, checkpoint_seconds=0.0, patience=5)
    calls = []

    def note(point):
        calls.append(point)
        if calls.count("evaluated") == 2:
            raise Killed

    train(config, tmp_path / "whole")
    assert "mesh data=8 x fsdp=1 of 8 devices" in capsys.readouterr().out
    monkeypatch.setattr("jaxbp.training.loop.reached", note)
    with pytest.raises(Killed):
        train(config, tmp_path / "parts")
    monkeypatch.undo()
    rows = {}
    for name, axes in (("same", (8, 1)), ("one", (1, 1)), ("other", (2, 4))):
        shutil.copytree(tmp_path / "parts", tmp_path / name)
        train(on(config, *axes), tmp_path / name)
        assert "resumed at step" in capsys.readouterr().out
        rows[name] = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
    assert (tmp_path / "same/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
    assert weights(tmp_path / "same") == weights(tmp_path / "whole")
    for row, expected in zip([*rows["one"], *rows["other"]], 2 * rows["same"], strict=True):
        assert row == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("words", [["train", "digits_mlp", "--workdir=run"], ["rate"]], ids=lambda words: words[0])
def test_a_device_kind_that_is_not_there_takes_one_line(words, monkeypatch, tmp_path, capsys):
    """JAX raises an error without words where the plug-in is not installed."""
    monkeypatch.chdir(tmp_path)

    def devices():
        raise AssertionError

    monkeypatch.setattr("jaxbp.machine.jax.devices", devices)
    monkeypatch.setattr(rate, "keep_programs", lambda config: devices())  # the first of rate to need one
    assert main(words) == 2
    assert capsys.readouterr().err.endswith(": this machine has no such device; JAX_PLATFORMS=cpu works\n")


@pytest.mark.parametrize("devices", [0, 10**20])
def test_a_number_of_devices_that_cannot_be_takes_one_line(devices, monkeypatch, tmp_path, capsys):
    values = jax.config.values | {"jax_num_cpu_devices": devices}
    monkeypatch.setattr(type(jax.config), "values", values)
    assert main(["train", "xor", f"--workdir={tmp_path / 'run'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: JAX_NUM_CPU_DEVICES={devices}: it must be at least 1")


@pytest.mark.parametrize(
    ("refused", "line"),
    [
        ('Invalid value "abc" for JAX flag jax_num_cpu_devices', 'Invalid value "abc" for JAX_NUM_CPU_DEVICES'),
        ("invalid truth value 'x' for environment 'JAX_ENABLE_X64'", "'JAX_ENABLE_X64'"),
    ],
)
def test_a_variable_that_jax_cannot_read_takes_one_line(refused, line, tmp_path):
    """The package's first import by itself, with a JAX that refuses."""
    (tmp_path / "jax.py").write_text(f"raise ValueError({refused!r})")
    words = [sys.executable, "-S", environment.__file__]
    done = subprocess.run(words, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    (error,) = done.stderr.splitlines()
    assert error.startswith("error: in the environment: ")
    assert error.endswith(line)
