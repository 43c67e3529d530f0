"""What a trace shows beside backpropagation: a penalty's part, and what a credit rule sends back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxbp import Chain, Dense, Graph, Node, Sigmoid, value_and_grad
from jaxbp.commands.__main__ import main
from jaxbp.config import Config, Run
from jaxbp.credit import Backpropagation, DirectFeedbackAlignment, ErrorSplit, FeedbackAlignment, KolenPollack
from jaxbp.data import Rows
from jaxbp.losses import Penalty, SquaredError
from jaxbp.optim import SGD
from jaxbp.page.contents import contents, recorded
from jaxbp.page.setting import setting
from jaxbp.page.trace import traced

pytestmark = pytest.mark.usefixtures("float64")
PENALTY = Penalty(l2=0.1, l1=0.01, paths="0[02].*/w")


def begun(credit=Backpropagation(), penalty=PENALTY, model=Chain(Dense(3), Sigmoid(), Dense(1))):
    return setting(
        Config(
            data=Rows(x=((1.0, 0.5), (-0.5, 2.0)), y=((1.0,), (0.0,))),
            model=model,
            loss=SquaredError("half_sum"),
            optimizer=SGD(0.5),
            run=Run(epochs=3, batch_size=None),
            penalty=penalty,
            credit=credit,
        ),
        2,
    )


@pytest.mark.slow
def test_a_penalty_has_rows_of_its_own_and_steps_follow_the_sum():
    start = begun()
    before, after = recorded(start, 1)
    rows = {row.name: row for row in before.rows}
    terms = lambda params: [
        0.05 * jnp.sum(w**2) + 0.01 * jnp.sum(abs(w)) for w in jax.tree.leaves(params) if w.ndim > 1
    ]
    objective = lambda params: (
        value_and_grad(start.model, start.config.loss)(params, start.batch).value + sum(terms(params))
    )
    assert f"{before.value:.10g} + penalty {before.penalty:.10g} = {objective(start.params):.10g}" in str(before)
    truth, of_penalty = jax.grad(objective)(start.params), jax.grad(lambda params: sum(terms(params)))(start.params)
    stepped = optax.apply_updates(start.params, jax.tree.map(lambda g: -0.5 * g, truth))
    for layer in ("00_dense", "02_dense"):
        row = rows[f"penalty/{layer}/w"]
        for numbers in (row.by_hand, row.autodiff):
            np.testing.assert_allclose(numbers, of_penalty[layer]["w"], rtol=1e-12)
        np.testing.assert_allclose(rows[f"{layer}/w"].by_hand + row.by_hand, truth[layer]["w"], rtol=1e-12)
    moved = {row.name: row.value for row in after.rows}
    np.testing.assert_allclose(moved["00_dense/w"], stepped["00_dense"]["w"], rtol=1e-12)
    assert "penalty/00_dense/b" not in rows


@pytest.mark.slow
@pytest.mark.parametrize("rule", [FeedbackAlignment(), DirectFeedbackAlignment(), ErrorSplit()], ids=repr)
def test_what_a_rule_sends_back_makes_its_direction(rule):
    """Each dense layer's direction is what came back to it times its input, whatever the rule."""
    start = begun(rule, Penalty())
    rows = {row.name: row for row in traced(start).rows}
    for layer, below in (("00_dense", start.batch["x"]), ("02_dense", rows["01_sigmoid"].value)):
        np.testing.assert_allclose(rows[f"{layer}/w"].sent, rows[layer].sent.T @ below, rtol=1e-12)
    np.testing.assert_array_equal(rows["02_dense"].sent, rows["02_dense"].by_hand)
    slope = rows["01_sigmoid"].value * (1 - rows["01_sigmoid"].value)
    np.testing.assert_allclose(rows["00_dense"].sent, rows["01_sigmoid"].sent * slope, rtol=1e-12)
    if isinstance(rule, FeedbackAlignment):
        sent_by_b = rows["02_dense"].sent @ np.asarray(start.kept["02_dense"]["w"])
        np.testing.assert_allclose(rows["01_sigmoid"].sent, sent_by_b, rtol=1e-12)
    assert rows["x"].sent is None


@pytest.mark.slow
def test_a_page_of_a_credit_rule_has_its_steps_and_no_mistakes_to_plant():
    start = begun(KolenPollack(decay=0.25), Penalty())
    held = contents(start, "title", 2)
    assert (held["credit"], held["net"], held["mistakes"]) == ("KolenPollack(decay=0.25)", None, [])
    first, second, _ = ({row["name"]: row for row in table["rows"]} for table in held["passes"])
    stepped = 0.75 * np.array(first["00_dense/w"]["value"]) - 0.5 * np.array(first["00_dense/w"]["sent"])
    np.testing.assert_allclose(second["00_dense/w"]["value"], stepped, rtol=1e-12)
    assert second["00_dense/w"]["cosine"] < 0.9999


@pytest.mark.slow
def test_a_graph_goes_forward_node_by_node_whatever_their_names():
    """One is called as the row of the inputs is, one as those of the penalty are."""
    nodes = (
        Node("z", Chain(Dense(2)), ("inputs",)),
        Node("x", Sigmoid(), ("z",)),
        Node("penalty", Dense(1), ("x",)),
        Node("a", Sigmoid(), ("penalty",)),
    )
    rows = traced(begun(penalty=Penalty(l2=0.1, paths=".*/w"), model=Graph(nodes, ("inputs",)))).rows
    names = lambda kind: [row.name for row in rows if row.kind == kind]
    assert names("output") == ["z/00_dense", "x", "penalty", "a"]
    assert names("parameter") == ["z/00_dense/b", "z/00_dense/w", "penalty/b", "penalty/w"]
    assert sorted(names("penalty")) == ["penalty/penalty/w", "penalty/z/00_dense/w"]
    assert names("input") == ["x"]


@pytest.mark.parametrize("updates", [0, 1001, 200_000])
def test_updates_beyond_the_limit_are_refused_in_one_line(updates, capsys):
    assert main(["trace", f"--updates={updates}"]) == 2
    err = capsys.readouterr().err
    assert err == f"error: --updates must be an integer in [1, 1000], got '{updates}'\n"


def test_a_rule_without_deltas_is_refused_in_one_line(capsys):
    assert main(["trace", "xor", "--config.credit=ForwardGradient"]) == 2
    err = capsys.readouterr().err
    assert "credit=ForwardGradient sends no delta back from layer to layer" in err
    assert err.count("\n") == 1
