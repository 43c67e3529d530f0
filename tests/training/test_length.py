"""Going on with another number of epochs: refused where the steps so far would have been others, else to the bit."""

import json
from dataclasses import dataclass, replace

import optax
import pytest

import jaxbp
from jaxbp import optim
from jaxbp.data import Function
from jaxbp.losses import SquaredError
from jaxbp.training.fit import check_length
from jaxbp.training.identity import Identity
from jaxbp.training.loop import train
from tests.support.runs import small, weights


@dataclass(frozen=True)
class Cooled(optim.SGD):
    """An optimizer of one's own without a schedule: its learning rate falls in the last tenth of the run."""

    def build(self, steps, objective=None):
        return optax.with_extra_args_support(optax.sgd(lambda step: 0.1 * (1 - 0.9 * (step > 0.9 * steps))))


@dataclass(frozen=True)
class Hidden(optim.SGD):
    """An optimizer of one's own whose state alone knows the length."""

    def build(self, steps, objective=None):
        return optax.with_extra_args_support(optax.inject_hyperparams(optax.sgd)(1 / steps))


def squared(optimizer):
    config = small(batch_size=None)
    model = replace(config.model, outputs=1)
    return replace(config, data=Function("sine"), model=model, loss=SquaredError("mean"), optimizer=optimizer)


def classified(optimizer):
    return replace(small(), optimizer=optimizer)


SPANNING = [
    classified(optim.AdamW(schedule=optim.Cosine())),
    classified(optim.SGD(schedule=optim.Cosine(warmup=0.5, final=1.0))),  # flat but for its warm-up
    classified(optim.SGD(schedule=optim.Cosine(), groups=(optim.Group(".*", 0.5),))),
    classified(Cooled()),
    classified(Hidden()),
]
DECAY = ("transition_steps=100", "decay_rate=0.5")
GOING_ON = [
    classified(optim.AdamW()),
    classified(optim.SGD(schedule=optim.OptaxSchedule("exponential_decay", DECAY))),
    classified(optim.SGD(plateau=optim.Plateau(steps=2), clip_norm=1.0)),
    classified(optim.SGD(private=optim.Private())),
    classified(optim.Optax(name="lion")),
    classified(optim.KFAC()),
    classified(optim.Newton()),
    squared(optim.LevenbergMarquardt()),
]
name = lambda config: repr(config.optimizer)[:60]


def length(config, before, after, done):
    config = replace(config, run=replace(config.run, epochs=after))
    check_length(config, config.model.build(), config.data.load(), before, done)


@pytest.mark.parametrize("config", SPANNING, ids=name)
def test_a_schedule_that_spans_the_run_is_refused(config):
    with pytest.raises(jaxbp.InputError, match=r"run\.epochs was 3 and is 5, .* spans the run") as refusal:
        length(config, 3, 5, 6)
    for way_out in ("--fresh", "--workdir", "Constant()"):
        assert way_out in str(refusal.value)
    length(config, 3, 3, 6)


@pytest.mark.parametrize("config", GOING_ON, ids=name)
def test_any_other_goes_on(config):
    length(config, 3, 5, 3)
    length(config, 5, 3, 3)


@pytest.mark.parametrize("config", [SPANNING[0], GOING_ON[0]], ids=name)
def test_fewer_epochs_than_are_done_are_refused(config):
    with pytest.raises(jaxbp.InputError, match=r"run\.epochs=2 would end at step 12, .* already at step 13 "):
        length(config, 3, 2, 13)


@pytest.mark.slow
def test_a_longer_run_is_the_run_of_that_length(tmp_path):
    train(small(epochs=2), tmp_path / "parts")
    train(small(epochs=3), tmp_path / "parts")
    train(small(epochs=3), tmp_path / "whole")
    assert (tmp_path / "parts/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert json.loads((tmp_path / "parts/config.json").read_text())["run"]["epochs"] == 3


@pytest.mark.slow
def test_a_refusal_changes_nothing_in_the_folder(tmp_path):
    config = replace(small(epochs=2), optimizer=optim.SGD(schedule=optim.Cosine()))
    train(config, tmp_path)
    content = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for epochs in (1, 3):
        with pytest.raises(jaxbp.InputError, match=r"run\.epochs"):
            train(replace(config, run=replace(config.run, epochs=epochs)), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == content


@pytest.mark.slow
def test_a_run_is_cut_short_where_it_stands(tmp_path, monkeypatch):
    """Two of four epochs are done, and there was no evaluation yet: a run of two epochs still has one to make."""
    run = {"evaluate_every": 4, "steps_per_call": 6, "checkpoint_seconds": 0.0}
    calls = []

    class Ended(Exception):
        pass

    def end(point):
        calls.append(point)
        if len(calls) == 2:
            raise Ended

    monkeypatch.setattr("jaxbp.training.loop.reached", end)
    with pytest.raises(Ended):
        train(small(epochs=4, **run), tmp_path / "short")
    last = train(small(epochs=2, **run), tmp_path / "short")
    assert last == train(small(epochs=2, **run), tmp_path / "whole")
    assert weights(tmp_path / "short") == weights(tmp_path / "whole")


@pytest.mark.slow
def test_without_a_checkpoint_nothing_is_done_yet(tmp_path):
    """The run was killed before its first checkpoint: it may have any length."""
    config = replace(small(epochs=2), optimizer=optim.SGD(schedule=optim.Cosine()))
    train(config, tmp_path / "run")
    (tmp_path / "run/checkpoints").rename(tmp_path / "elsewhere")
    replace(Identity.read(tmp_path / "run"), saved=False).write(tmp_path / "run")
    longer = replace(config, run=replace(config.run, epochs=3))
    assert train(longer, tmp_path / "run") == train(longer, tmp_path / "whole")
