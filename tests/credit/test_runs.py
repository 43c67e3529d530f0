"""Credit rules in runs: one key of a config, resumed to the bit, under vmap over seeds; the default changes nothing."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from bench import small_tasks
from jaxbp import config as configuration
from jaxbp import credit, optim
from jaxbp.commands.__main__ import main
from jaxbp.credit.alignment import alignment
from jaxbp.data import Adding
from jaxbp.errors import InputError
from jaxbp.models import RNN, FeedbackMLP
from jaxbp.training.loop import train
from jaxbp.training.step import initial_state, make_step
from tests.credit.test_rules import KEYS
from tests.support.marks import but_at_night
from tests.support.paths import ROOT
from tests.support.runs import small, weights

RULES = [*KEYS, credit.SignSymmetric("batch"), credit.SignSymmetric("fixed"), credit.ErrorSplit("transpose")]
SUMS = {"data": Adding(length=4, examples=64, test_examples=16), "loss": jaxbp.SquaredError()}
IN_TIME = {"model": RNN(outputs=1, hidden=(4,), cell="simple", output="last"), **SUMS}
OWN = {  # the net, and the data and the loss, of rules that iris has not
    credit.EquilibriumPropagation: {"model": FeedbackMLP(outputs=3, hidden=(4,))},
    credit.ContrastiveHebbian: {"model": FeedbackMLP(outputs=1, hidden=(4,)), **SUMS},
    credit.RealTime: IN_TIME,
    credit.EProp: IN_TIME,
}
XOR = configuration.load(ROOT / "configs/xor.py")


def for_rules(ci):
    """The test of every rule; in CI of these."""
    nightly = lambda rule: () if rule in ci else pytest.mark.nightly
    return pytest.mark.parametrize("rule", [pytest.param(rule, id=str(rule), marks=nightly(rule)) for rule in RULES])


def test_the_default_leaves_the_step_as_it_was():
    """Its program is that of value_and_grad and the optimizer, to the letter."""
    config = XOR
    model, spec = config.build_model(), jax.ShapeDtypeStruct((4, 2), jnp.float32)
    optimizer = config.build_optimizer(10, spec)
    batch = {"x": jnp.ones((4, 2)), "y": jnp.ones((4, 1)), "mask": jnp.ones(4)}
    state = jax.eval_shape(lambda: initial_state(model, optimizer, spec, 0, credit=config.credit))
    assert len(jax.tree.leaves(state)) == len(jax.tree.leaves(replace(state, credit=())))
    ours = jax.make_jaxpr(make_step(config.gradient(model), optimizer, credit=config.credit))(state, batch)
    plain = jax.make_jaxpr(make_step(jaxbp.value_and_grad(model, config.loss), optimizer))(state, batch)
    assert str(ours) == str(plain)


@pytest.mark.slow
@for_rules(ci=(credit.KolenPollack(),))
def test_a_killed_run_ends_with_the_same_bytes(rule, tmp_path, monkeypatch):
    config = replace(small(steps_per_call=2, checkpoint_seconds=0.0), credit=rule, **OWN.get(type(rule), {}))
    whole = train(config, tmp_path / "whole")
    assert len(whole["alignment"]) >= 4  # weights and biases of two layers
    assert (tmp_path / "whole/alignment.png").is_file()
    calls = []

    class Ended(Exception):
        pass

    def note(point):
        calls.append(point)
        if len(calls) == 4:
            raise Ended

    monkeypatch.setattr("jaxbp.training.loop.reached", note)
    with pytest.raises(Ended):
        train(config, tmp_path / "parts")
    assert train(config, tmp_path / "parts") == whole
    assert (tmp_path / "parts/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_the_small_tasks_have_every_rule():
    assert {type(rule) for rule in small_tasks.RULES.values()} == {credit.Backpropagation, *map(type, KEYS)}


XOR_RULES = [name for name in small_tasks.names("xor") if name in small_tasks.RULES]


@pytest.mark.slow
@pytest.mark.parametrize("name", but_at_night(XOR_RULES, *(small_tasks.RULES.keys() - {"FeedbackAlignment"})))
def test_xor_from_twenty_seeds_in_one_program(name):
    figures = small_tasks.row("xor", name, 20)
    print(small_tasks.markdown(figures, "xor"))
    assert figures["mean"] >= 0.5


@pytest.mark.nightly
@pytest.mark.parametrize("name", XOR_RULES)
def test_a_net_among_others_learns_what_it_learns_alone(name):
    """Three steps under vmap over seeds, within rounding, which Adam would blow up where a gradient is nearly zero."""
    start, step = small_tasks.learning(replace(small_tasks.entry("xor", name), optimizer=optim.SGD(0.5)))
    three = lambda seed: step(step(step(start(seed)))).params
    together, alone = jax.jit(jax.vmap(three))(jnp.arange(4)), jax.jit(three)(2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[2], b, rtol=1e-4, atol=1e-5), together, alone)


def test_alignment_of_what_is_known():
    g = jnp.array([[1.0, -2.0], [0.5, 3.0]])
    np.testing.assert_allclose(alignment(2 * g, g), (1, 1, 2), rtol=1e-6)
    np.testing.assert_allclose(alignment(-g, g), (-1, 0, 1), rtol=1e-6)
    np.testing.assert_allclose(alignment(jnp.zeros(2), jnp.ones(2)), (0, 0, 0))
    np.testing.assert_allclose(alignment(jnp.array([1.0, 1]), jnp.array([1.0, -1])), (0, 0.5, 1), atol=1e-6)


@pytest.mark.slow
def test_the_check_says_departs_on_purpose(capsys, tmp_path):
    words = ["check", "xor", "--credit", f"--json={tmp_path / 'report.json'}"]
    assert main([*words, "--config.credit=FeedbackAlignment"]) == 0
    out = capsys.readouterr().out
    assert "credit FeedbackAlignment(scale=1.0): departs from the gradient on purpose" in out
    figures = json.loads((tmp_path / "report.json").read_text())["credit"]
    assert figures["03_dense/w"] == pytest.approx({"cosine": 1, "signs": 1, "ratio": 1})
    assert abs(figures["01_dense/w"]["cosine"]) < 0.999


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"optimizer": optim.KFAC()},
            "credit=ErrorSplit goes with an optimizer that takes a direction alone, not with",
        ),
        ({"optimizer": optim.SGD(private=optim.Private())}, "not with optimizer.private"),
        ({"loss": jaxbp.SoftmaxCrossEntropy(chunk=4)}, "credit=ErrorSplit needs all logits at once: loss.chunk"),
        ({"credit": credit.EquilibriumPropagation()}, "EquilibriumPropagation is defined for a FeedbackNet alone"),
    ],
)
def test_what_does_not_go_with_a_rule_is_one_line(changes, line, tmp_path):
    config = replace(small(), **({"credit": credit.ErrorSplit()} | changes))
    with pytest.raises(InputError) as error:
        train(config, tmp_path / "run")
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
