"""What training sees of any data set: the order of an epoch, the checks of every part, batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxbp.data import Dataset, Splits, epoch_order
from jaxbp.errors import InputError

laws = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)

# --- epoch order -------------------------------------------------------------------------------------------------

sizes = st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@laws
@given(seeds, st.integers(0, 1000), sizes, st.booleans())
def test_every_example_is_in_an_epoch_exactly_once(seed, epoch, size, shuffle):
    examples, batch_size = size
    order, mask = epoch_order(seed, epoch, examples, batch_size, shuffle)
    assert order.shape == mask.shape == (-(-examples // batch_size), batch_size)
    assert (order.dtype, mask.dtype) == (np.int32, np.float32)
    assert sorted(order[mask == 1]) == list(range(examples))
    assert (order[mask != 1] == 0).all()
    assert mask.sum() == examples
    assert mask[:-1].all(), "only the last batch may be ragged"


@laws
@given(seeds, st.integers(0, 1000))
def test_order_depends_on_seed_and_epoch_only(seed, epoch):
    order = epoch_order(seed, epoch, 100, 7)[0]
    np.random.seed(0)  # global randomness must not matter
    np.testing.assert_array_equal(order, epoch_order(seed, epoch, 100, 7)[0])
    np.testing.assert_array_equal(order.ravel()[:100], epoch_order(seed, epoch, 100, 13)[0].ravel()[:100])
    for other in (epoch_order(seed + 1, epoch, 100, 7), epoch_order(seed, epoch + 1, 100, 7)):
        assert (order != other[0]).any()


def test_order_without_shuffling_is_file_order():
    order, mask = epoch_order(0, 3, 5, 2, shuffle=False)
    np.testing.assert_array_equal(order, [[0, 1], [2, 3], [4, 0]])
    np.testing.assert_array_equal(mask, [[1, 1], [1, 1], [1, 0]])


@pytest.mark.parametrize("batch_size", [0, -1, 11])
def test_batch_size_outside_the_examples_is_refused(batch_size):
    with pytest.raises(InputError, match=rf"^batch_size must lie in 1\.\.10 .*, got {batch_size}$"):
        epoch_order(0, 0, 10, batch_size)


# --- checks of every part ----------------------------------------------------------------------------------------

GOOD = Dataset(np.ones((3, 2), np.float32), np.array([0, 1, 2], np.int32))
CLASSES = ("a", "b", "c")


def test_nan_names_part_row_and_column():
    x = np.ones((3, 2), np.float32)
    x[1, 0] = np.nan
    with pytest.raises(InputError, match=r"^validation part: x row 1, column 0 holds nan"):
        Splits(GOOD, Dataset(x, GOOD.y), GOOD, CLASSES)


def test_infinite_target_names_part_row_and_column():
    y = np.zeros((3, 2), np.float32)
    good = Dataset(GOOD.x, y.copy())
    y[2, 1] = np.inf
    with pytest.raises(InputError, match=r"^test part: y row 2, column 1 holds inf"):
        Splits(good, None, Dataset(GOOD.x, y), None)


def test_value_beyond_float32_is_not_finite():
    with pytest.raises(InputError, match=r"^train part: x row 0, column 0 holds 1e\+39"):
        Splits(Dataset(np.full((3, 1), 1e39), GOOD.y), None, GOOD, CLASSES)


@pytest.mark.parametrize("label", [-1, 3])
def test_label_outside_the_classes_names_row_and_label(label):
    bad = Dataset(GOOD.x, np.array([0, label, 1], np.int32))
    with pytest.raises(InputError, match=rf"^test part: y row 1 holds label {label}, .* in 0\.\.2$"):
        Splits(GOOD, None, bad, CLASSES)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Dataset(GOOD.x[:0], GOOD.y[:0]), "^test part: holds no examples"),
        (Dataset(GOOD.x[:2], GOOD.y), "^test part: x has 2 rows and y has 3"),
    ],
)
def test_part_of_wrong_size_is_refused(part, message):
    with pytest.raises(InputError, match=message):
        Splits(GOOD, None, part, CLASSES)


def test_part_of_another_shape_is_refused():
    with pytest.raises(InputError, match=r"^test part: a row of x has shape \(5,\), in the train part \(2,\)$"):
        Splits(GOOD, None, Dataset(np.ones((3, 5), np.float32), GOOD.y), CLASSES)


def test_integer_x_is_allowed_for_tokens():
    tokens = Dataset(np.zeros((3, 4), np.int32), np.zeros((3, 4), np.int32))
    assert len(Splits(tokens, None, tokens, CLASSES).test) == 3


# --- batches ----------------------------------------------------------------------------------------------------


def test_a_batch_has_equal_weights():
    batch = GOOD.batch(slice(2))
    np.testing.assert_array_equal(batch["x"], GOOD.x[:2])
    np.testing.assert_array_equal(batch["y"], [0, 1])
    np.testing.assert_array_equal(batch["weight"], [0.5, 0.5])
    assert batch["weight"].dtype == np.float32
    assert len(GOOD.batch()["x"]) == 3


def test_a_masked_time_step_has_no_weight():
    tokens = np.zeros((3, 2), np.int32)
    data = Dataset(tokens, tokens, np.array([[1, 1], [1, 0], [0, 0]], np.float32))
    np.testing.assert_array_equal(data.batch(np.array([1, 0]))["weight"], np.float32([[1, 0], [1, 1]]) / np.float32(3))
