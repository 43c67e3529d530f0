"""Splitting, scaling and label encoding, once for all data sets, and the config keys that choose among them.

scikit-learn does the work. It takes seconds to import, so that happens inside the functions that need it.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxbp.data.pipeline import DataConfig, Dataset, Splits, to_float32
from jaxbp.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Prepared(DataConfig):
    """Keys of data that has a training and a test part."""
    validation_fraction: float = 0.0  # part of the training examples kept for validation, in [0, 1); 0 keeps none
    scaling: Literal["none", "standard", "min_max"] = "none"  # of each feature, fitted on the training part
    scale_targets: bool = False  # regression targets to mean 0 and standard deviation 1 of the training part
    one_hot: bool = False  # labels as float32 rows [N, classes] instead of int32 numbers [N]
    seed: int = 0  # of every random choice, in 0..4294967295

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.validation_fraction < 1:
            raise InputError(f"validation_fraction must lie in [0, 1), got {self.validation_fraction}")
        check_seed(self.seed)

    def finish(self, train: Dataset, test: Dataset, classes: tuple[str, ...] | None) -> Splits:
        """Holds out the validation part, scales, encodes the labels, and gives everything its final type."""
        if self.one_hot and classes is None:
            raise InputError("one_hot=True needs class labels, and this data has numbers as targets")
        if self.scale_targets and classes is not None:
            raise InputError("scale_targets=True needs numbers as targets, and this data has class labels")
        validation = None
        if self.validation_fraction > 0:
            what = f"validation_fraction={self.validation_fraction}"
            train, validation = hold_out(train, classes, round(self.validation_fraction * len(train)), self.seed, what)
        splits = Splits(train, validation, test, classes)
        if self.scaling != "none":
            splits = scale_features(splits, self.scaling)
        if self.scale_targets:
            splits = scale_targets(splits)
        return splits.map(as_one_hot(classes) if self.one_hot else _final_types)


@dataclass(frozen=True, kw_only=True)
class Tabular(Prepared):
    """Keys of data that comes as one table, from which a test part is split off."""
    test_fraction: float = 0.2  # part of all examples kept for the test, in (0, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_test_fraction(self.test_fraction)

    def split(self, data: Dataset, classes: tuple[str, ...] | None) -> Splits:
        """Holds out the test part (stratified where there are classes), then does what `finish` does."""
        return self.finish(*split_test(data, classes, self.test_fraction, self.seed), classes)


def check_seed(seed: int) -> None:
    """Raises InputError unless scikit-learn accepts the seed."""
    if not 0 <= seed < 2**32:
        raise InputError(f"seed must lie in 0..{2**32 - 1}, got {seed}")


def check_test_fraction(fraction: float) -> None:
    """Raises InputError unless the fraction lies in (0, 1)."""
    if not 0 < fraction < 1:
        raise InputError(f"test_fraction must lie in (0, 1), got {fraction}")


def split_test(
    data: Dataset, classes: tuple[str, ...] | None, fraction: float, seed: int
) -> tuple[Dataset, Dataset]:
    """(training part, test part with this fraction of the examples); errors are those of `hold_out`."""
    return hold_out(data, classes, round(fraction * len(data)), seed, f"test_fraction={fraction}")


def hold_out(
    data: Dataset, classes: tuple[str, ...] | None, count: int, seed: int, what: str
) -> tuple[Dataset, Dataset]:
    """(the rest, `count` examples drawn without replacement), both in file order, stratified where there are classes.

    Raises InputError, naming the key `what`, if a part would be empty or cannot have its share of every class.
    """
    from sklearn.model_selection import train_test_split

    if not 0 < count < len(data):
        raise InputError(f"{what} of {len(data)} examples leaves a part without examples")
    if classes is not None:
        _check_stratified(data.y, classes, count, what)
    rows = np.arange(len(data))
    labels = None if classes is None else data.y
    rest, held = train_test_split(rows, test_size=count, random_state=seed, stratify=labels)
    return data.take(np.sort(rest)), data.take(np.sort(held))


def _check_stratified(labels: np.ndarray, classes: tuple[str, ...], count: int, what: str) -> None:
    present, sizes = np.unique(labels, return_counts=True)
    if sizes.min() < 2:
        name = classes[present[sizes.argmin()]]
        raise InputError(f"{what}: class '{name}' has 1 example, and a stratified split needs 2 of every class")
    smaller = min(count, len(labels) - count)
    if smaller < len(present):
        raise InputError(f"{what}: a part of {smaller} examples cannot hold all {len(present)} classes")


def scale_features(splits: Splits, scaling: Literal["standard", "min_max"]) -> Splits:
    """Every feature to mean 0 and standard deviation 1, or to 0..1, of the training part; a constant one becomes 0."""
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    scaler = StandardScaler() if scaling == "standard" else MinMaxScaler()
    scaler.fit(_rows(splits.train.x))
    return splits.map(lambda part: Dataset(scaler.transform(_rows(part.x)).reshape(part.x.shape), part.y))


def scale_targets(splits: Splits) -> Splits:
    """Every target to mean 0 and standard deviation 1 of the training part."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(splits.train.y)
    return splits.map(lambda part: Dataset(part.x, scaler.transform(part.y)))


def _rows(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)  # [N, features]


def as_one_hot(classes: tuple[str, ...]) -> Callable[[Dataset], Dataset]:
    """The function that gives a part final types, with labels as rows of the identity matrix [N, classes]."""
    rows = np.eye(len(classes), dtype=np.float32)
    return lambda part: Dataset(to_float32(part.x), rows[part.y])


def _final_types(part: Dataset) -> Dataset:
    y = part.y.astype(np.int32) if part.y.dtype.kind == "i" else to_float32(part.y)
    return Dataset(to_float32(part.x), y)


def label_numbers(where: str, labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The place of each label [N] in the sorted array `values`, int32 [N]. Raises InputError for one not in there."""
    strange = np.flatnonzero(~np.isin(labels, values))
    if strange.size:
        row = strange[0]
        raise InputError(f"{where}: row {row} holds label {labels[row]}, which no training example has")
    return np.searchsorted(values, labels).astype(np.int32)


def cross_validation(data: Dataset, folds: int, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields `folds` pairs (training rows, validation rows), int [n]; every row is a validation row exactly once.

    Shuffled by `seed`, and stratified where y holds labels, as numbers or one-hot. Data scaled before it is folded has
    seen its validation rows. Raises InputError if folds is not in 2..N, or a class has fewer examples than folds.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    check_seed(seed)
    if not 2 <= folds <= len(data):
        raise InputError(f"folds must lie in 2..{len(data)} (the number of examples), got {folds}")
    labels = _labels(data.y)
    if labels is None:
        return KFold(folds, shuffle=True, random_state=seed).split(data.x)
    present, sizes = np.unique(labels, return_counts=True)
    if sizes.min() < folds:
        rarest = f"class {present[sizes.argmin()]} has {sizes.min()} examples"
        raise InputError(f"folds must lie in 2..{sizes.min()} ({rarest}), got {folds}")
    return StratifiedKFold(folds, shuffle=True, random_state=seed).split(data.x, labels)


def _labels(y: np.ndarray) -> np.ndarray | None:
    """The label numbers [N] that y holds, as they are or one-hot; None for regression targets."""
    if y.dtype.kind == "i":
        return y
    one_hot = y.shape[1] > 1 and np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all()
    return y.argmax(axis=1) if one_hot else None
