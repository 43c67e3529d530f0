"""The order of the examples is made for some epochs at a time, and is the same as if it were made at once."""

import numpy as np
import pytest

from jaxbp.data import Dataset, epoch_order
from jaxbp.training import feeds
from jaxbp.training.loop import calls, train
from tests.support.runs import small, weights

PART = Dataset(np.arange(7, dtype=np.float32)[:, None], np.arange(7, dtype=np.int32))


@pytest.mark.parametrize("per_call", [1, 2, 3, 4, 10, 100])
@pytest.mark.parametrize("begin", [0, 5])
def test_every_call_has_its_steps(per_call, begin, monkeypatch):
    """Three steps an epoch, from a step within one on; shapes are those of the first call."""
    monkeypatch.setattr(feeds, "AT_ONCE", 1)
    feed = feeds.make_feeds(PART, 3, True, 3)(2, 13)
    orders, masks = (
        np.concatenate(parts) for parts in zip(*(epoch_order(3, i, 7, 3) for i in range(2, 13)), strict=True)
    )
    assert feed.steps == len(orders) == 33
    shapes = set()
    for first, count in calls(begin, feed.steps, per_call, 0, None):
        present, place = feed.call(first, per_call)
        held = slice(int(place), int(place) + count)
        np.testing.assert_array_equal(present.order[held], orders[first : first + count])
        np.testing.assert_array_equal(present.mask[held], masks[first : first + count])
        shapes.add(present.order.shape)
    assert len(shapes) == 1
    np.testing.assert_array_equal(feed.batch(np.int32(begin))["y"], orders[begin])


@pytest.mark.parametrize(
    ("examples", "count", "epochs", "at_once"),
    [
        (120, 100, 1, 1),
        (4, 100, 1000, 1000),
        (4, 100, 10**6, 4177),
        (60_000, 100, 200, 101),
        (60_000, 1, 200, 68),
        (4, 10**5, 10**6, 100_001),
    ],
)
def test_epochs_at_once_take_a_tenth_of_a_second_and_hold_a_call(examples, count, epochs, at_once):
    assert feeds.epochs_at_once(examples, examples, count, epochs) == at_once


@pytest.mark.slow
def test_a_run_has_the_same_bytes_whichever_epochs_are_made_at_once(tmp_path, monkeypatch):
    config = small(epochs=9, evaluate_every=9, steps_per_call=4)
    train(config, tmp_path / "at_once")
    monkeypatch.setattr(feeds, "AT_ONCE", 1)
    train(config, tmp_path / "some")
    assert weights(tmp_path / "some") == weights(tmp_path / "at_once")
    assert (tmp_path / "some/metrics.jsonl").read_bytes() == (tmp_path / "at_once/metrics.jsonl").read_bytes()
