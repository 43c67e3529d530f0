"""Optimizers: equal to plain optax, every name of optax accepted or refused, clipping, groups, plateau."""

import functools
import inspect
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from jaxbp import InputError, SquaredError, value_and_grad
from jaxbp.config import Config, Run, from_json, override, to_json
from jaxbp.data import Logic
from jaxbp.losses import BinaryCrossEntropy
from jaxbp.models import MLP
from jaxbp.optim import SGD, Adam, AdamW, Cosine, Group, Optax, OptaxSchedule, Plateau, optimizer_names
from jaxbp.optim.by_name import REFUSED, SCHEDULES
from jaxbp.training.step import initial_state, make_step

PARAMS = {
    "00_dense": {"b": np.array([0.5, -0.0]), "w": np.array([[0.3, -2.0], [1.5, 0.1], [-0.7, 0.2]])},
    "02_dense": {"b": np.array([-0.4, 4.0, 0.9]), "w": np.array([[0.6, -0.1, 2.0]])},
}
LEAVES = "there are: 00_dense/b, 00_dense/w, 02_dense/b, 02_dense/w"


def loss(params):
    return sum(jnp.sum(jnp.square(w - 1)) for w in jax.tree.leaves(params))


def run(optimizer, steps, dtype=np.float64, params=PARAMS):
    """Parameters after `steps` steps in one compiled loop, which fails where a dtype or a structure changes."""

    def step(carry):
        i, params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params, value=value)
        return i + 1, optax.apply_updates(params, updates), state

    params = jax.tree.map(lambda w: jnp.asarray(w, dtype), params)
    loop = lambda params: jax.lax.while_loop(lambda carry: carry[0] < steps, step, (0, params, optimizer.init(params)))
    return jax.jit(loop)(params)[1]


def updates(config, values=(0.0,), grads=None):
    """The successive updates for the same gradient, one for each value of the loss."""
    optimizer = config.build(len(values))
    params = jax.tree.map(jnp.asarray, PARAMS)
    grads = jax.tree.map(jnp.asarray, grads) if grads else jax.grad(loss)(params)

    def step(state, value):
        update, state = optimizer.update(grads, state, params, value=value)
        return state, update

    stacked = jax.jit(lambda values: jax.lax.scan(step, optimizer.init(params), values)[1])(jnp.asarray(values))
    return [jax.tree.map(lambda update, i=i: np.asarray(update[i]), stacked) for i in range(len(values))]


def refused(make):
    with pytest.raises(InputError) as error:
        make()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


# --- Equal to plain optax ---------------------------------------------------------------------------------------------

WEIGHTS = {name: {"b": False, "w": True} for name in PARAMS}
DECAYED = (Group(".*/w", weight_decay=0.3), Group(".*"))
PAIRS = {
    "norm": (SGD(0.1, clip_norm=0.5), lambda: [optax.clip_by_global_norm(0.5), optax.sgd(0.1)]),
    "value, then norm": (
        Adam(0.1, clip_norm=0.5, clip_value=0.3),
        lambda: [optax.clip(0.3), optax.clip_by_global_norm(0.5), optax.adam(0.1)],
    ),
    "cosine": (
        AdamW(0.1, Cosine(final=0.1), weight_decay=0.2),
        lambda: [optax.adamw(optax.cosine_decay_schedule(0.1, 5, 0.1), weight_decay=0.2)],
    ),
    "nesterov": (SGD(0.1, momentum=0.9, nesterov=True), lambda: [optax.sgd(0.1, 0.9, True)]),
    "by name": (
        Optax(0.1, name="lion", arguments=("b1=0.8", "weight_decay = 0.1")),
        lambda: [optax.lion(0.1, 0.8, weight_decay=0.1)],
    ),
    "by the loss": (Optax(1.0, name="momo"), lambda: [optax.contrib.momo(1.0)]),
    "a number": (Optax(0.01, name="rprop"), lambda: [optax.rprop(0.01)]),
    "schedule by name": (
        SGD(0.1, OptaxSchedule("exponential_decay", ("transition_steps=2", "decay_rate=0.5"))),
        lambda: [optax.sgd(optax.exponential_decay(0.1, 2, 0.5))],
    ),
    "plateau": (
        SGD(0.9, plateau=Plateau(1, 0.5, 1, 0.5, 1, 0.2)),
        lambda: [optax.sgd(0.9), optax.contrib.reduce_on_plateau(0.5, 1, 0.5, 0, 1, 1, 0.2)],
    ),
    "decay": (Adam(0.1, groups=DECAYED), lambda: [optax.adamw(0.1, weight_decay=0.3, mask=WEIGHTS)]),
}


@pytest.mark.parametrize(("config", "parts"), PAIRS.values(), ids=PAIRS)
def test_five_steps_are_those_of_optax(config, parts, float64):
    params = run(config.build(5), 5)
    expected = run(optax.chain(*parts()), 5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), params, expected)
    assert all(np.any(w != new) for w, new in zip(jax.tree.leaves(PARAMS), jax.tree.leaves(params), strict=True))


# --- Every name of optax ----------------------------------------------------------------------------------------------


def takes_rate(value):
    """Whether it is a function of a learning rate: no class such as a state, and no alias of a type."""
    try:
        return not inspect.isclass(value) and "learning_rate" in inspect.signature(value).parameters
    except (TypeError, ValueError):
        return False


PUBLIC = {name: value for module in (optax, optax.contrib) for name, value in vars(module).items() if name[0] != "_"}
ALL = {name for name, value in PUBLIC.items() if takes_rate(value)} | {"mechanize", "polyak_sgd", "sam"}
EXTRA = {"noisy_sgd": ("key=0",)}  # optax warns without
PARTS = {"scale_by_learning_rate": "sgd", "scale_by_madgrad": "madgrad", "scale_by_rprop": "rprop"}
AVERAGED = ["schedule_free_adamw", "schedule_free_sgd"]
NO_SCHEDULES = {"join_schedules", "sgdr_schedule"}


@pytest.mark.parametrize("name", optimizer_names())
def test_an_optimizer_by_name_does_three_steps(name):
    optimizer = Optax(0.01, name=name, arguments=EXTRA.get(name, ())).build(3)
    start = PARAMS["00_dense"]
    params = run(optimizer, 3, np.float32, start)
    for w in jax.tree.leaves(params):
        assert w.dtype == np.float32
        assert np.all(np.isfinite(w))
    assert loss(params) < loss(jax.tree.map(np.float32, start)) + 0.1


def test_every_optimizer_of_optax_is_accepted_or_refused():
    assert {"adam", "nadamw", "lion", "prodigy", "muon"} < set(optimizer_names()) < ALL
    assert ALL - set(optimizer_names()) == set(REFUSED) - NO_SCHEDULES


@pytest.mark.parametrize("name", sorted(set(REFUSED) - NO_SCHEDULES - set(AVERAGED) - set(PARTS)))
def test_a_refused_optimizer_fails_with_gradient_and_loss_alone(name):
    assert REFUSED[name] in refused(lambda: Optax(name=name))
    arguments = {"l2_norm_clip": 1.0, "noise_multiplier": 0.1, "seed": 0} if name == "dpsgd" else {}
    with pytest.raises(
        (TypeError, ValueError, DeprecationWarning),
        match=r"argument|obj_fn must be provided|batch dimension|deprecated",
    ):
        run(PUBLIC[name](learning_rate=0.1, **arguments), 1, np.float32)


@pytest.mark.parametrize("name", AVERAGED)
def test_schedule_free_is_evaluated_elsewhere(name):
    assert REFUSED[name] in refused(lambda: Optax(name=name))
    optimizer, params = PUBLIC[name](learning_rate=0.1), jnp.array([0.5, -2.0, 3.0])
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for _ in range(3):
        changes, state = update(params, state, params)
        params += changes
    assert np.all(abs(optax.contrib.schedule_free_eval_params(state, params) - params) > 1e-3)


@pytest.mark.parametrize(("name", "whole"), PARTS.items())
def test_a_part_is_the_optimizer_or_climbs(name, whole):
    assert REFUSED[name] in refused(lambda: Optax(name=name))
    assert whole in optimizer_names()
    params, grads = jnp.ones(3), jnp.array([1.0, -2.0, 3.0])
    first = [
        optimizer.update(grads, optimizer.init(params), params)[0]
        for optimizer in (PUBLIC[part](learning_rate=0.1) for part in (name, whole))
    ]
    np.testing.assert_array_equal(first[0], -first[1] if whole == "rprop" else first[1])


ARGUMENTS = {
    "constant_schedule": (),
    "cosine_decay_schedule": ("decay_steps=9",),
    "cosine_onecycle_schedule": ("transition_steps=10",),
    "exponential_decay": ("transition_steps=3", "decay_rate=0.5"),
    "linear_onecycle_schedule": ("transition_steps=10",),
    "linear_schedule": ("end_value=0", "transition_steps=5"),
    "piecewise_constant_schedule": ("boundaries_and_scales={3: 0.1}",),
    "piecewise_interpolate_schedule": ("interpolate_type='linear'", "boundaries_and_scales={3: 0.1}"),
    "polynomial_schedule": ("end_value=0", "power=2", "transition_steps=5"),
    "warmup_constant_schedule": ("init_value=0", "warmup_steps=2"),
    "warmup_cosine_decay_schedule": ("init_value=0", "warmup_steps=2", "decay_steps=9"),
    "warmup_exponential_decay_schedule": ("init_value=0", "warmup_steps=2", "transition_steps=2", "decay_rate=0.5"),
}


def test_the_peak_of_every_schedule_is_the_learning_rate():
    assert set(ARGUMENTS) == set(SCHEDULES)
    for name, arguments in ARGUMENTS.items():
        schedule = OptaxSchedule(name, arguments).build(0.3, 10)
        assert max(jax.jit(jax.vmap(schedule))(jnp.arange(10))) == pytest.approx(0.3, rel=1e-6), name
    schedules = {name for name, value in vars(optax.schedules).items() if inspect.isfunction(value)}
    assert schedules - set(SCHEDULES) == {
        "join_schedules",
        "sgdr_schedule",
        "inject_hyperparams",
        "inject_stateful_hyperparams",
    }


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Optax(name="lionn"), "unknown optax optimizer 'lionn'; did you mean 'lion'?"),
        (lambda: Optax(name="sam"), "optax optimizer sam cannot be used: it needs another optimizer inside"),
        (lambda: Optax(name="lion", arguments=("b3=1",)), "lion(b3=1): unknown argument 'b3'; did you mean 'b2'?"),
        (lambda: Optax(name="lion", arguments=("b1=x",)), "b1 must be a number, a quoted text"),
        (lambda: Optax(name="lion", arguments=("b1",)), "b1 must be a number"),
        (lambda: Optax(name="lion", arguments=("b1=1", "b1=2")), "lion(b1=1, b1=2): b1 is given twice"),
        (lambda: Optax(name="lion", arguments=("b1='x'",)), "lion(b1='x'): unsupported operand"),
        (lambda: Optax(name="lion", arguments=("mu_dtype='flat32'",)), "data type 'flat32' not understood"),
        (lambda: Optax(name="lion", arguments=("learning_rate=1",)), "learning_rate is given by the key learning_rate"),
        (lambda: Optax(name="lion", arguments="b1=1"), "Optax: arguments must be a tuple of texts"),
        (lambda: Optax(name="sm3", schedule=Cosine()), "schedule must be Constant() for sm3, got Cosine("),
        (lambda: OptaxSchedule("cosine_decay"), "optax schedule 'cosine_decay'; did you mean 'cosine_decay_schedule'?"),
        (lambda: OptaxSchedule("join_schedules"), "cannot be used: it has no argument for one learning rate"),
        (lambda: OptaxSchedule("inject_hyperparams"), "unknown optax schedule"),
        (lambda: OptaxSchedule("linear_schedule", ("init_value=1",)), "init_value is given by the key learning_rate"),
        (lambda: OptaxSchedule("linear_schedule", ("end_valu=1",)), "did you mean 'end_value'?"),
        (lambda: OptaxSchedule("cosine_decay_schedule"), "missing 1 required positional argument: 'decay_steps'"),
        (lambda: OptaxSchedule("cosine_decay_schedule", ("decay_steps=0",)), "requires positive decay_steps"),
        (lambda: OptaxSchedule("piecewise_constant_schedule", ("boundaries_and_scales=3",)), "has no attribute"),
        (lambda: Optax(name="muon", arguments=("ns_coeffs=-1",)), "muon(ns_coeffs=-1): tuple index out of range"),
        (lambda: Optax(name="radam", arguments=("b2=True",)), "radam(b2=True): float division by zero"),
        (lambda: SGD(clip_norm=0.0), "SGD: clip_norm must be a finite number above 0 or None, got 0.0"),
        (lambda: SGD(clip_value=-1.0), "SGD: clip_value must be a finite number above 0 or None, got -1.0"),
        (lambda: SGD(groups=(Group(".*", 0.0),)), "SGD: groups must not freeze all parameters"),
        (lambda: SGD(groups=Group(".*")), "SGD: groups must be"),
        (lambda: Group("(", 1.0), "Group: paths must be a text that is a regular expression, got '('"),
        (lambda: Group(".*", -1.0), "Group: learning_rate_factor must be a finite number of at least 0, got -1.0"),
        (lambda: Group(".*", weight_decay=-1.0), "Group: weight_decay must be a finite number of at least 0, got -1.0"),
        (lambda: Group(".*", 0.0, 0.1), "Group: weight_decay must be 0 where learning_rate_factor is 0, got 0.1"),
        (lambda: Plateau(0), "Plateau: steps must be an integer of at least 1, got 0"),
        (lambda: Plateau(1, factor=1.0), "Plateau: factor must be a finite number in (0, 1), got 1.0"),
        (lambda: Plateau(1, patience=0), "Plateau: patience must be an integer of at least 1, got 0"),
        (lambda: Plateau(1, rtol=0.0), "Plateau: rtol must be a finite number in (0, 1), got 0.0"),
        (lambda: Plateau(1, cooldown=-1), "Plateau: cooldown must be an integer of at least 0, got -1"),
        (lambda: Plateau(1, min_scale=1.0), "Plateau: min_scale must be a finite number in [0, 1), got 1.0"),
    ],
)
def test_what_is_refused(make, text):
    assert text in refused(make)


def test_an_error_that_no_argument_causes_is_not_made_one_of_input(monkeypatch):
    def broken(value):
        raise RuntimeError("out of memory")

    monkeypatch.setitem(SCHEDULES, "constant_schedule", (broken, "value"))
    with pytest.raises(RuntimeError, match="out of memory"):
        OptaxSchedule("constant_schedule")


# --- Clipping, groups, plateau ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_clipping():
    (plain,) = updates(SGD(1.0))
    norm = float(optax.tree.norm(plain))
    (clipped,) = updates(SGD(1.0, clip_norm=0.5))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6), clipped, jax.tree.map(lambda u: u * 0.5 / norm, plain)
    )
    for same in (SGD(1.0, clip_norm=2 * norm), SGD(1.0, clip_value=norm)):
        jax.tree.map(np.testing.assert_array_equal, updates(same)[0], plain)
    (cut,) = updates(SGD(1.0, clip_value=0.5))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.clip(b, -0.5, 0.5)), cut, plain)


@pytest.mark.parametrize(
    "config",
    [AdamW(0.1, clip_norm=1.0), SGD(0.1, momentum=0.9, plateau=Plateau(1)), Optax(name="muon")],
    ids=["adamw", "sgd", "muon"],
)
def test_a_frozen_parameter_stays_to_the_bit(config):
    params = run(replace(config, groups=(Group("00_dense/.*", 0.0), Group(".*"))).build(3), 3, np.float32)
    start = jax.tree.map(np.float32, PARAMS)
    for name in ("b", "w"):
        assert np.asarray(params["00_dense"][name]).tobytes() == start["00_dense"][name].tobytes()
        assert np.all(params["02_dense"][name] != start["02_dense"][name])


def test_the_norm_is_that_of_what_moves():
    grads = {
        "00_dense": {"b": jnp.full(2, 1e6), "w": jnp.ones((3, 2))},
        "02_dense": {"b": jnp.zeros(3), "w": jnp.array([[0.0, 3.0, 4.0]])},
    }
    (update,) = updates(SGD(1.0, clip_norm=1.0, groups=(Group("00.*", 0.0), Group(".*"))), grads=grads)
    np.testing.assert_allclose(update["02_dense"]["w"], [[0, -0.6, -0.8]], rtol=1e-6)


def test_a_factor_is_on_the_update():
    grads = jax.tree.map(np.float32, PARAMS)
    plain, tenth = (
        optimizer.update(grads, optimizer.init(grads), grads)[0]
        for optimizer in (SGD(0.3).build(1), SGD(0.3, groups=(Group(".*/b", 0.1), Group(".*"))).build(1))
    )
    for name in PARAMS:
        np.testing.assert_array_equal(tenth[name]["b"], np.float32(0.1) * plain[name]["b"])
        np.testing.assert_array_equal(tenth[name]["w"], plain[name]["w"])


def test_decay_follows_factor_and_schedule(float64):
    """No gradient: w loses factor * learning_rate * weight_decay of itself. The first group that matches counts."""
    schedule = OptaxSchedule("piecewise_constant_schedule", ("boundaries_and_scales={1: 0.5}",))
    config = SGD(0.1, schedule, groups=(Group("00.*/w", 2.0, 0.3), Group(".*", weight_decay=0.5)))
    decays = updates(config, (0.0, 0.0), grads=jax.tree.map(np.zeros_like, PARAMS))
    for update, rate in zip(decays, (0.1, 0.05), strict=True):
        np.testing.assert_allclose(update["00_dense"]["w"], -2 * rate * 0.3 * PARAMS["00_dense"]["w"], rtol=1e-12)
        np.testing.assert_allclose(update["02_dense"]["b"], -rate * 0.5 * PARAMS["02_dense"]["b"], rtol=1e-12)


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        ([".*/w"], f"groups: no pattern matches '00_dense/b' ({LEAVES})"),
        (["00_dense", ".*/b"], f"groups: no pattern matches '00_dense/w' ({LEAVES})"),  # the whole path must match
        ([".*", "03.*"], f"groups: '03.*' matches nothing that no earlier group has ({LEAVES})"),
        ([".*", ".*/w"], f"groups: '.*/w' matches nothing that no earlier group has ({LEAVES})"),
    ],
)
def test_groups_that_do_not_cover(groups, text):
    config, shapes = SGD(groups=tuple(map(Group, groups))), jax.eval_shape(lambda: jax.tree.map(jnp.asarray, PARAMS))
    assert refused(lambda: config.check(shapes)) == text
    assert refused(lambda: config.build(1).init(PARAMS)) == text


def test_groups_that_cover():
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, PARAMS))
    assert SGD(groups=tuple(map(Group, ("00.*", ".*")))).group_of(shapes)["02_dense"] == {"b": 1, "w": 1}
    SGD().check(shapes)
    SGD().check({})


def test_plateau_waits_for_patience():
    """The first of the evaluations, each of two steps, is the best; the fourth is the third without improvement."""

    def rates(plateau, values):
        return [update["00_dense"]["b"][0] for update in updates(SGD(1.0, plateau=plateau), values)]

    assert rates(Plateau(2, patience=3), [1.0] * 16) == pytest.approx([1.0] * 7 + [0.1] * 6 + [0.01] * 3)
    rested = rates(Plateau(2, patience=3, cooldown=1, min_scale=0.05), [1.0] * 18)
    assert rested == pytest.approx([1.0] * 7 + [0.1] * 8 + [0.05] * 3)
    assert rates(Plateau(1, patience=1), [4.0, 3.0, 2.0, 1.0]) == pytest.approx([1.0] * 4)  # it falls


def test_the_step_gives_the_loss_to_the_optimizer():
    """A loss at its minimum that is not 0 stays: the third evaluation reduces the rate. The first layer is frozen."""
    model, groups = MLP(1, (3,)).build(), (Group("00.*|01.*", 0.0), Group(".*"))
    optimizer = SGD(1e-3, groups=groups, plateau=Plateau(1, patience=2, rtol=0.5)).build(3)
    step = jax.jit(make_step(value_and_grad(model, SquaredError()), optimizer))
    first = state = initial_state(model, optimizer, jax.ShapeDtypeStruct((4, 2), jnp.float32), 0)
    batch = {"x": jnp.ones((4, 2)), "y": jnp.ones((4, 1)), "mask": jnp.ones(4)}
    for scale in (1.0, 1.0, 0.1):
        state = step(state, batch)
        assert float(state.optimizer[-1].scale) == pytest.approx(scale)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), first.params, state.params)
    frozen = [name for name in moved if any(jax.tree.leaves(moved[name]))]
    assert frozen == list(moved)[-1:]


# --- In a config ------------------------------------------------------------------------------------------------------

CONFIG = Config(Logic("xor"), MLP(1, (4, 3)), BinaryCrossEntropy(), SGD(0.1), Run(2, seed=3))
OPTIMIZERS = [
    SGD(0.1, clip_norm=1, groups=(Group(".*/w", 0.5, 0.1), Group(".*")), plateau=Plateau(10)),
    Adam(groups=(Group(".*"),)),
    Optax(
        1.0,
        OptaxSchedule("linear_schedule", ("end_value=0", "transition_steps=5")),
        name="prodigy",
        arguments=("betas=(0.9, 0.99)",),
    ),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["groups and plateau", "one group", "by name"])
def test_json(optimizer):
    config = replace(CONFIG, optimizer=optimizer)
    data = json.loads(json.dumps(to_json(config)))
    assert from_json(data) == config
    assert type(from_json(data).optimizer.groups) is tuple


def test_json_that_is_no_group():
    data = json.loads(json.dumps(to_json(replace(CONFIG, optimizer=OPTIMIZERS[0]))))
    data["optimizer"]["groups"][1]["path"] = ".*"
    assert refused(lambda: from_json(data)).startswith("unknown key of Group 'path'; did you mean 'paths'?")


@pytest.mark.parametrize(
    ("optimizer", "word", "changed"),
    [
        (OPTIMIZERS[0], "clip_norm=None", {"clip_norm": None}),
        (OPTIMIZERS[0], "clip_value=2", {"clip_value": 2.0}),
        (OPTIMIZERS[0], "plateau.patience=3", {"plateau": Plateau(10, patience=3)}),
        (SGD(0.1), "momentum=0.9", {"momentum": 0.9}),
        (Optax(0.1, name="adam"), "name=rprop", {"name": "rprop"}),
        (OPTIMIZERS[2], "name=lion", {"name": "lion", "arguments": ()}),
        (OPTIMIZERS[2], "arguments=eps=1e-6,beta3=0.9", {"arguments": ("eps=1e-6", "beta3=0.9")}),
    ],
)
def test_overrides(optimizer, word, changed):
    extra = ["--config.optimizer.arguments="] if "name" in changed else []
    config = override(replace(CONFIG, optimizer=optimizer), [f"--config.optimizer.{word}", *extra])
    assert config.optimizer == replace(optimizer, **changed)


def test_an_override_that_is_refused():
    text = refused(lambda: override(replace(CONFIG, optimizer=OPTIMIZERS[2]), ["--config.optimizer.arguments=beta=1"]))
    assert text.startswith("--config.optimizer: optax optimizer prodigy(beta=1): unknown argument 'beta'; did you mean")
