"""Splitting, scaling and label encoding for all data sets, and the config keys that choose among them.

scikit-learn does the work. It takes seconds to import, so the functions that need it import it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from jaxbp.data.checks import to_float32
from jaxbp.data.columns import Columns
from jaxbp.data.pipeline import DataConfig, Dataset, Splits
from jaxbp.data.preparation import Numbers, Preparation, Scaling
from jaxbp.errors import InputError
from jaxbp.typed import Fraction, Seed, Share

Fit = Callable[[np.ndarray], Numbers | Columns]  # the raw x of the training part -> how raw rows become numbers


@dataclass(frozen=True, kw_only=True)
class Prepared(DataConfig):
    """Keys of data that has a training and a test part.

    Args:
        validation_fraction: fraction of the training examples for validation; 0: no validation part
        scaling: how each feature is scaled; fitted on the training part
        scale_targets: whether regression targets get mean 0 and standard deviation 1 of the training part
        one_hot: whether labels are float32 rows [N, classes] instead of int32 numbers [N]
        seed: seed of every random choice
    """

    validation_fraction: Fraction = 0.0
    scaling: Literal["none", "standard", "min_max"] = "none"
    scale_targets: bool = False
    one_hot: bool = False
    seed: Seed = 0

    def finish(self, train: Dataset, test: Dataset, classes: tuple[str, ...] | None, fit: Fit = Numbers.of) -> Splits:
        """Holds out the validation part, fits the preparation on the training part and applies it to all, encodes the
        labels, and gives everything its final type."""
        if self.one_hot and classes is None:
            raise InputError("one_hot=True needs class labels, and this data has numbers as targets")
        if self.scale_targets and classes is not None:
            raise InputError("scale_targets=True needs numbers as targets, and this data has class labels")
        validation = None
        if self.validation_fraction > 0:
            what = f"validation_fraction={self.validation_fraction}"
            train, validation = hold_out(train, classes, round(self.validation_fraction * len(train)), self.seed, what)
        raw = fit(train.x)

        def encode(part: Dataset) -> Dataset:
            return replace(part, x=raw.encode(part.x))

        splits = Splits(encode(train), None if validation is None else encode(validation), encode(test), classes)
        scaling = None if self.scaling == "none" else fit_scaling(self.scaling, splits.train.x)
        target_scaling = fit_scaling("standard", splits.train.y) if self.scale_targets else None
        if scaling:
            splits = splits.map(lambda part: replace(part, x=scaling.apply(part.x)))
        if target_scaling:
            splits = splits.map(lambda part: replace(part, y=target_scaling.apply(part.y)))
        splits = splits.map(as_one_hot(classes) if self.one_hot and classes else _final_types)
        return replace(splits, fitted=Preparation(raw, scaling, target_scaling, classes))


class Examples(NamedTuple):
    """A whole table."""

    data: Dataset  # raw x, and labels as numbers
    classes: tuple[str, ...] | None  # names; None for regression
    fit: Fit = Numbers.of


@dataclass(frozen=True, kw_only=True)
class Tabular(Prepared):
    """Keys of data that comes as one table, of which a fraction or a fold becomes the test part.

    Args:
        test_fraction: fraction of all examples for the test part
    """

    test_fraction: Share = 0.2

    @abstractmethod
    def table(self) -> Examples:
        """The whole table, unscaled, with labels as numbers, the class names, and how its rows become numbers."""
        raise NotImplementedError

    def load(self) -> Splits:
        return self.split(*self.table())

    def split(self, data: Dataset, classes: tuple[str, ...] | None, fit: Fit = Numbers.of) -> Splits:
        """Holds out the test part (stratified where there are classes), then calls `finish`."""
        return self.finish(*split_test(data, classes, self.test_fraction, self.seed), classes, fit)

    def folds(self, count: int, seed: int) -> Iterator[Splits]:
        """`count` splits, each with one fold of `cross_validation` as its test part, prepared by its own training part.

        test_fraction is ignored. Raises InputError at the call for a count that `cross_validation` refuses.
        """
        data, classes, fit = Examples(*self.table())
        pairs = cross_validation(data, count, seed)
        return (self.finish(data.take(train), data.take(test), classes, fit) for train, test in pairs)


def split_test(data: Dataset, classes: tuple[str, ...] | None, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """(training part, test part with this fraction of the examples). Raises the errors of `hold_out`."""
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


def fit_scaling(kind: Literal["standard", "min_max"], values: np.ndarray) -> Scaling:
    """Of each feature of [N, ...] to mean 0 and standard deviation 1, or to 0..1; a constant one becomes 0."""
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    scaler = StandardScaler() if kind == "standard" else MinMaxScaler()
    scaler.fit(values.reshape(len(values), -1))
    offset = scaler.mean_ if kind == "standard" else scaler.min_
    return Scaling(kind, tuple(offset.tolist()), tuple(scaler.scale_.tolist()))


def as_one_hot(classes: tuple[str, ...]) -> Callable[[Dataset], Dataset]:
    """The function that gives a part its final types, with labels as rows of the identity matrix [N, classes]."""
    rows = np.eye(len(classes), dtype=np.float32)
    return lambda part: replace(part, x=to_float32(part.x), y=rows[part.y])


def _final_types(part: Dataset) -> Dataset:
    y = part.y.astype(np.int32) if part.y.dtype.kind == "i" else to_float32(part.y)
    return replace(part, x=to_float32(part.x), y=y)


def label_numbers(where: str, labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The place of each label [N] in the sorted array `values`, int32 [N]. Raises InputError for a missing one."""
    absent = np.flatnonzero(~np.isin(labels, values))
    if absent.size:
        row = absent[0]
        raise InputError(f"{where}: row {row} holds label {labels[row]}, which no training example has")
    return np.searchsorted(values, labels).astype(np.int32)


def cross_validation(data: Dataset, folds: int, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields `folds` pairs (training rows, validation rows), int [n]; every row is a validation row exactly once.

    Rows are shuffled by `seed`, and stratified where y holds labels, as numbers or one-hot. Scale each fold by itself:
    scaling before folding leaks the validation rows. Raises InputError if folds is not in 2..N, or a class has fewer
    examples than folds.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

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
