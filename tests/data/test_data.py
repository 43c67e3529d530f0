"""Splits, folds, scaling and labels, and the data sets that need no file."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxbp import data
from jaxbp.data import DataConfig, Dataset, Embedded, Logic, Splits, cross_validation
from jaxbp.data.logic import Operator
from jaxbp.data.prepare import Tabular, hold_out
from jaxbp.errors import InputError

laws = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def parts(splits: Splits) -> dict[str, Dataset]:
    named = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return {name: part for name, part in named.items() if part is not None}


def numbered(labels: np.ndarray) -> Dataset:
    """Examples whose one feature is their own row number."""
    return Dataset(np.arange(len(labels), dtype=np.float32)[:, None], labels)


GOOD = Dataset(np.ones((3, 2), np.float32), np.array([0, 1, 2], np.int32))
CLASSES = ("a", "b", "c")


class AnyTable(Tabular):
    """Tabular data whose table the test hands over."""

    def table(self):
        raise AssertionError("nobody loads it")


# --- splitting ---------------------------------------------------------------------------------------------------


@laws
@given(seeds, st.integers(30, 90), st.floats(0.2, 0.5), st.floats(0.2, 0.5))
def test_split_is_a_stratified_partition(seed, examples, test_fraction, validation_fraction):
    labels = np.arange(examples, dtype=np.int32) % 3
    config = AnyTable(test_fraction=test_fraction, validation_fraction=validation_fraction, seed=seed)
    splits = config.split(numbered(labels), CLASSES)
    rows = [part.x[:, 0].astype(int) for part in parts(splits).values()]
    assert sorted(np.concatenate(rows)) == list(range(examples))
    assert len(splits.test) == round(test_fraction * examples)
    assert len(splits.validation) == round(validation_fraction * (examples - len(splits.test)))
    for name, part in parts(splits).items():
        row = part.x[:, 0].astype(int)
        assert (np.diff(row) > 0).all(), f"{name} part is not in file order"
        np.testing.assert_array_equal(part.y, labels[row])
        counts = np.bincount(part.y, minlength=3)
        assert counts.max() - counts.min() <= 2, f"{name} part has {counts} examples of the classes"


def test_split_is_deterministic_and_depends_on_the_seed():
    def test_rows(seed):
        return hold_out(numbered(np.zeros((50, 1), np.float32)), None, 10, seed, "test")[1].x.ravel().tolist()

    assert test_rows(1) == test_rows(1)
    assert test_rows(1) != test_rows(2)


@pytest.mark.parametrize(
    ("labels", "fraction", "message"),
    [
        ([0, 0, 0, 0, 1, 1, 1, 1, 2], 0.5, "^test_fraction=0.5: class 'c' has 1 example"),
        ([0, 1, 2] * 3, 0.2, "^test_fraction=0.2: a part of 2 examples cannot hold all 3 classes$"),
        ([0, 1, 2] * 3, 0.8, "^test_fraction=0.8: a part of 2 examples cannot hold all 3 classes$"),
        ([0, 1, 2] * 3, 0.01, "^test_fraction=0.01 of 9 examples leaves a part without examples$"),
        ([0, 1, 2] * 3, 0.99, "^test_fraction=0.99 of 9 examples leaves a part without examples$"),
    ],
)
def test_impossible_split_is_refused(labels, fraction, message):
    with pytest.raises(InputError, match=message):
        AnyTable(test_fraction=fraction).split(numbered(np.array(labels, np.int32)), CLASSES)


def test_regression_is_not_stratified():
    splits = AnyTable(test_fraction=0.5).split(numbered(np.arange(4, dtype=np.float32)[:, None]), None)
    assert splits.classes is None
    assert splits.test.y.shape == (2, 1)


# --- cross-validation --------------------------------------------------------------------------------------------


@laws
@given(seeds, st.integers(2, 10), st.sampled_from(["labels", "one_hot", "targets"]))
def test_every_row_is_validated_exactly_once(seed, folds, kind):
    labels = np.arange(40, dtype=np.int32) // 10
    y = {"labels": labels, "one_hot": np.eye(4)[labels], "targets": np.ones((40, 1))}
    pairs = list(cross_validation(numbered(y[kind]), folds, seed))
    assert len(pairs) == folds
    assert sorted(np.concatenate([validation for _, validation in pairs])) == list(range(40))
    for train, validation in pairs:
        assert sorted([*train, *validation]) == list(range(40))
        counts = np.bincount(labels[validation], minlength=4)
        assert kind == "targets" or counts.max() - counts.min() <= 1


def test_folds_are_shuffled_by_the_seed():
    folds = [[v.tolist() for _, v in cross_validation(GOOD_TARGETS, 3, seed)] for seed in (0, 0, 1)]
    assert folds[0] == folds[1] != folds[2]


GOOD_TARGETS = numbered(np.ones((12, 1), np.float32))


@pytest.mark.parametrize(
    ("part", "folds", "message"),
    [
        (GOOD_TARGETS, 1, r"^folds must lie in 2\.\.12 .*, got 1$"),
        (GOOD_TARGETS, 13, r"^folds must lie in 2\.\.12 .*, got 13$"),
        (
            numbered(np.array([0, 0, 0, 1, 1], np.int32)),
            3,
            r"^folds must lie in 2\.\.2 \(class 1 has 2 examples\), got 3$",
        ),
    ],
)
def test_impossible_folds_are_refused(part, folds, message):
    with pytest.raises(InputError, match=message):
        cross_validation(part, folds)


@dataclass(frozen=True)
class Rows(Tabular):
    """Forty rows of four classes with one feature, the row's number; as numbers to predict if not `labelled`."""

    labelled: bool = True

    def table(self):
        labels = np.arange(40, dtype=np.int32) % 4
        return (numbered(labels), (*CLASSES, "d")) if self.labelled else (numbered(labels[:, None] * 1.0), None)


@pytest.mark.parametrize("keys", [{}, {"one_hot": True}, {"validation_fraction": 0.25}, {"labelled": False}])
def test_folds_are_splits_that_test_every_row_once(keys):
    folds, (whole, classes) = list(Rows(**keys).folds(5, seed=1)), Rows(**keys).table()
    assert len(folds) == 5
    assert sorted(np.concatenate([fold.test.x[:, 0] for fold in folds])) == list(range(40))
    for fold, (train, test) in zip(folds, cross_validation(whole, 5, 1), strict=True):
        np.testing.assert_array_equal(fold.test.x[:, 0], test)
        rows = np.concatenate([part.x[:, 0] for name, part in parts(fold).items() if name != "test"])
        np.testing.assert_array_equal(np.sort(rows), train)
        assert fold.classes == classes
        assert fold.test.y.shape == {"one_hot": (8, 4), "labelled": (8, 1)}.get(next(iter(keys), ""), (8,))
        assert (fold.validation is not None) == ("validation_fraction" in keys)


def test_folds_are_scaled_by_their_own_training_part():
    whole, _ = Rows().table()
    for fold, (train, test) in zip(Rows(scaling="standard").folds(4, seed=0), cross_validation(whole, 4), strict=True):
        x = whole.x[train]
        np.testing.assert_allclose(fold.train.x, (x - x.mean()) / x.std(), rtol=1e-5)
        np.testing.assert_allclose(fold.test.x, (whole.x[test] - x.mean()) / x.std(), rtol=1e-5)


def test_folds_depend_on_their_seed_and_refuse_at_the_call():
    tested = [[fold.test.x.ravel().tolist() for fold in Rows().folds(5, seed)] for seed in (0, 0, 1)]
    assert tested[0] == tested[1] != tested[2]
    with pytest.raises(InputError, match=r"^folds must lie in 2\.\.10 \(class 0 has 10 examples\), got 11$"):
        Rows().folds(11, 0)


# --- scaling and labels ------------------------------------------------------------------------------------------

shapes = st.tuples(st.integers(6, 30), st.integers(1, 4))
tables = hnp.arrays(np.float64, shapes, elements=st.floats(-1e3, 1e3, width=16))


def scaled(x: np.ndarray, scaling: str) -> Splits:
    targets = np.zeros((len(x), 1))
    return AnyTable(scaling=scaling).finish(Dataset(x[:-2], targets[:-2]), Dataset(x[-2:], targets[-2:]), None)


@laws
@given(tables)
def test_standard_scaling_gives_the_training_part_mean_0_and_std_1(x):
    train = scaled(x, "standard").train.x
    varies = x[:-2].std(axis=0) > 1e-3
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(train.std(axis=0)[varies], 1, atol=1e-4)
    assert (train[:, np.ptp(x[:-2], axis=0) == 0] == 0).all(), "a constant column must become 0"


@laws
@given(tables)
def test_min_max_scaling_gives_the_training_part_0_to_1(x):
    train = scaled(x, "min_max").train.x
    varies = np.ptp(x[:-2], axis=0) > 0
    np.testing.assert_allclose(train.min(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(train.max(axis=0)[varies], 1, atol=1e-6)


def test_scaling_is_fitted_on_the_training_part_only():
    x = np.array([[0.0], [2], [0], [2], [5], [7]])
    np.testing.assert_allclose(scaled(x, "standard").test.x, [[4], [6]])
    np.testing.assert_allclose(scaled(x, "min_max").test.x, [[2.5], [3.5]])
    np.testing.assert_allclose(scaled(x, "none").test.x, [[5], [7]])


def test_scaling_keeps_the_shape_of_images():
    x = np.random.default_rng(0).normal(size=(8, 2, 3, 1))
    splits = scaled(x, "standard")
    assert splits.train.x.shape == (6, 2, 3, 1)
    np.testing.assert_allclose(splits.train.x.mean(axis=0), 0, atol=1e-6)


def test_targets_are_scaled_only_if_asked():
    y = np.array([[1.0], [3], [1], [3], [9], [9]])
    for scale, expected in ((False, [[9], [9]]), (True, [[7], [7]])):
        config = AnyTable(scale_targets=scale)
        splits = config.finish(Dataset(y[:4], y[:4]), Dataset(y[4:], y[4:]), None)
        np.testing.assert_allclose(splits.test.y, expected)
        np.testing.assert_allclose(splits.test.x, [[9], [9]])


def test_one_hot_turns_labels_into_rows_of_the_identity():
    splits = AnyTable(one_hot=True).finish(GOOD, GOOD, CLASSES)
    np.testing.assert_array_equal(splits.train.y, np.eye(3))
    assert splits.test.y.dtype == np.float32


@pytest.mark.parametrize(
    ("config", "classes", "message"),
    [
        (AnyTable(one_hot=True), None, "^one_hot=True needs class labels"),
        (AnyTable(scale_targets=True), CLASSES, "^scale_targets=True needs numbers"),
    ],
)
def test_key_that_does_not_fit_the_targets_is_refused(config, classes, message):
    with pytest.raises(InputError, match=message):
        config.finish(GOOD, GOOD, classes)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"test_fraction": 1.5}, r"test_fraction must be a finite number in \(0, 1\), got 1.5$"),
        ({"test_fraction": 0.0}, r"test_fraction must be a finite number in \(0, 1\), got 0.0$"),
        ({"test_fraction": float("nan")}, r"test_fraction must be a finite number in \(0, 1\), got nan$"),
        ({"validation_fraction": 1.0}, r"validation_fraction must be a finite number in \[0, 1\), got 1.0$"),
        ({"validation_fraction": -0.1}, r"validation_fraction must be a finite number in \[0, 1\), got -0.1$"),
        ({"seed": -1}, r"seed must be an integer in \[0, 4294967295\], got -1$"),
        ({"seed": 2**32}, r"seed must be an integer in \[0, 4294967295\], got 4294967296$"),
        ({"scaling": "standart"}, r"^unknown \w+ scaling 'standart'; did you mean 'standard'"),
    ],
)
def test_key_out_of_range_is_refused_before_loading(keys, message):
    with pytest.raises(InputError, match=message):
        AnyTable(**keys)


# --- embedded data sets, logic, discovery ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "examples", "features", "classes"),
    [
        ("digits", 1797, 64, 10),
        ("iris", 150, 4, 3),
        ("wine", 178, 13, 3),
        ("breast_cancer", 569, 30, 2),
        ("diabetes", 442, 10, None),
    ],
)
def test_embedded_data_sets(name, examples, features, classes):
    splits = Embedded(name, test_fraction=0.3, validation_fraction=0.2).load()
    assert sum(map(len, parts(splits).values())) == examples
    for part in parts(splits).values():
        assert part.x.shape[1:] == (features,)
        assert part.x.dtype == np.float32
        assert part.y.dtype == (np.int32 if classes else np.float32)
        assert part.y.shape[1:] == (() if classes else (1,))
    assert splits.classes is None if classes is None else len(splits.classes) == classes


def test_embedded_digits_as_images():
    flat, image = Embedded("digits").load(), Embedded("digits", image=True).load()
    assert image.train.x.shape[1:] == (8, 8, 1)
    np.testing.assert_array_equal(image.train.x.reshape(-1, 64), flat.train.x)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"name": "digit"}, r"^unknown \w+ name 'digit'; did you mean 'digits'"),
        ({"name": "iris", "image": True}, "^image=True is for name='digits' only, got name='iris'$"),
    ],
)
def test_embedded_refuses(keys, message):
    with pytest.raises(InputError, match=message):
        Embedded(**keys)


OPERATORS = {
    "false": lambda a, b: False,
    "and": lambda a, b: a and b,
    "a_and_not_b": lambda a, b: a and not b,
    "a": lambda a, b: a,
    "b_and_not_a": lambda a, b: b and not a,
    "b": lambda a, b: b,
    "xor": lambda a, b: a != b,
    "or": lambda a, b: a or b,
    "nor": lambda a, b: not (a or b),
    "xnor": lambda a, b: a == b,
    "not_b": lambda a, b: not b,
    "b_implies_a": lambda a, b: not b or a,
    "not_a": lambda a, b: not a,
    "a_implies_b": lambda a, b: not a or b,
    "nand": lambda a, b: not (a and b),
    "true": lambda a, b: True,
}


@pytest.mark.parametrize("operator", get_args(Operator))
def test_logic_is_the_truth_table_of_its_name(operator):
    splits = Logic(operator).load()
    assert {tuple(row) for row in splits.train.x} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    for part in (splits.train, splits.test):
        assert (part.x.dtype, part.y.dtype, part.y.shape) == (np.float32, np.float32, (4, 1))
        for (a, b), (y,) in zip(part.x, part.y, strict=True):
            assert y == OPERATORS[operator](bool(a), bool(b))


def test_logic_refuses_an_unknown_operator():
    with pytest.raises(InputError, match=r"^unknown Logic operator 'xorr'; did you mean 'xor'"):
        Logic("xorr")


def all_configs(base: type) -> list[type]:
    return [c for derived in base.__subclasses__() for c in (derived, *all_configs(derived))]


CONFIGS = {
    c.__name__: c
    for c in all_configs(DataConfig)
    if c.__module__.startswith("jaxbp.data.") and c not in (data.Movable, data.Prepared, data.Tabular, data.Table)
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_data_set_is_exported_under_its_own_name(config):
    line = f"from {config.__module__} import {config.__name__}"
    assert getattr(data, config.__name__, None) is config, f"jaxbp/data/__init__.py needs the line: {line}"
    assert config.__name__ in data.__all__, f"__all__ of jaxbp/data/__init__.py needs {config.__name__}"


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_data_sets_does_not_import_what_only_loading_needs():
    code = (
        "import sys, jaxbp.data; print([m for m in ('sklearn', 'PIL', 'urllib.request', 'pandas') if m in sys.modules])"
    )
    assert python(code) == "[]"
