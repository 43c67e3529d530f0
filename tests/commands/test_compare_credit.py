"""The comparison of credit rules: every rule is defined for its nets, and a row says what its runs did."""

import itertools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

import jaxbp
from jaxbp.commands import compare_credit
from jaxbp.commands.compare_credit import NETS, Options, configured, defined
from jaxbp.core import Context
from jaxbp.credit import carrying
from jaxbp.errors import InputError


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
def test_rules_are_defined_for_their_nets(net):
    """Nothing is computed: the program of a step is only traced, as shapes."""
    options = Options("", "", net)
    x, y = jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)
    model = NETS[net].model.build()

    def direction(key, x, y, rule):
        params = model.init(key, x)
        ctx = carrying(Context(key, model.init_state(x)), rule.init_state(key, params, model, x))
        return params, rule.gradient(model, jaxbp.SoftmaxCrossEntropy())(params, jaxbp.batch(x, y), ctx).grads

    for name in defined(net):
        rule = configured(options, name, 0.1, 0, 1).credit
        params, grads = jax.eval_shape(lambda key, x, y, rule=rule: direction(key, x, y, rule), jax.random.key(0), x, y)
        assert jax.tree.structure(grads) == jax.tree.structure(params)
        assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)


def test_a_rule_of_another_net_is_refused():
    with pytest.raises(InputError, match="credit rule of the net lenet: 'EquilibriumPropagation'"):
        compare_credit.main(["--workdir=/none", "--path=/none", "--net=lenet", "--rules=EquilibriumPropagation"])


def test_a_line_of_the_table_has_mean_and_deviation_of_the_seeds():
    row = {"rule": "FeedbackAlignment", "rate": 0.1, "cosine": 0.625, "processor_seconds": 12.4, "epochs": 15}
    line = compare_credit.markdown([row | {"test": [2.0, 2.2]}])
    assert line == "| `FeedbackAlignment` | 2.10 +- 0.10 | 2 | 15 | 0.62 | 12 | 0.1 |"
    assert line.count("|") == compare_credit.HEAD.splitlines()[0].count("|")


@pytest.mark.parametrize("option", ["--rates=", "--rates=,", "--rules=", "--rules=,"])
def test_an_empty_list_is_refused(option):
    with pytest.raises(InputError, match=r"separated by commas \(at least one\)"):
        compare_credit.main(["--workdir=/none", "--path=/none", option])


def test_processor_seconds_of_a_run_that_was_cut_off_count(monkeypatch, tmp_path):
    """Each pass of the clock is a second. The run is cut off once, ends, and is only read the third time."""
    clock = itertools.count()
    monkeypatch.setattr(compare_credit, "time", SimpleNamespace(process_time=lambda: float(next(clock))))
    rates = []

    def train(config, path, splits):
        rates.append(config.optimizer.learning_rate)
        path.mkdir(parents=True, exist_ok=True)
        if len(rates) == 1:
            raise KeyboardInterrupt
        row = {"epoch": 3, "step": 9, "train_loss": 0.5, "validation_accuracy": 0.5, "test_accuracy": 0.5}
        (path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        return row

    monkeypatch.setattr(compare_credit, "train", train)
    setup = NETS["dense"]._replace(rates=(0.1, 0.1 + 1e-9), tries=3, epochs=3)
    compared = lambda: compare_credit.compare(
        Options(str(tmp_path), "", seeds=1), "Backpropagation", setup, splits=None
    )
    with pytest.raises(KeyboardInterrupt):
        compared()
    assert compared()["processor_seconds"] == 2
    assert compared()["processor_seconds"] == 2
    assert len(list(tmp_path.glob("dense/Backpropagation/3_epochs/*"))) == 2
