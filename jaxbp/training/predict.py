"""Predictions of a trained model for the rows of a file, as a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxbp.data.images import read_images, visible
from jaxbp.data.npz import read_npz
from jaxbp.data.outside import located
from jaxbp.errors import InputError
from jaxbp.files import write_whole
from jaxbp.training.run import Prediction, load


def predict_file(
    run: str | Path, input: str | Path, output: str | Path, code: bool = False, step: int | None = None
) -> int:
    """Predicts the rows of a file, and writes a CSV file with a line for each, whole or not at all; -> their number.

    run: its folder, which `load` reads, with `code` and `step`. input: what the run's preparation reads (a table in CSV
    or Parquet, a .npy file), an .npz file with an array x, or a folder of images, which are taken by name. The columns
    are `label` and `probability NAME`, or `value`, after `file` for images. Raises InputError for rows that do not fit,
    and for an output that cannot be written.
    """
    trained = load(run, code, step)
    source = located(input)
    target = located(output)
    if target.exists() and source.exists() and target.samefile(source):
        raise InputError(f"the predictions would overwrite their own input, {target}")
    columns: dict[str, np.ndarray] = {}
    if source.is_dir():
        files = visible(source)
        columns["file"] = np.array([file.name for file in files])
        table = getattr(trained.config.data, "data", trained.config.data)  # of a fold, or of a reconstruction
        prediction = trained.predict(read_images(files, getattr(table, "grayscale", True)))
    else:
        prediction = trained.predict(read_npz_rows(source) if source.suffix == ".npz" else source)
    columns |= as_columns(prediction, trained.classes)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    rows = list(zip(*columns.values(), strict=True))
    writer.writerows([as_cell(value) for value in row] for row in rows)
    try:
        write_whole(target, text.getvalue().encode())
    except OSError as error:
        raise InputError(f"cannot write {target} ({error.strerror})") from error
    return len(rows)


def as_columns(prediction: Prediction, classes: tuple[str, ...] | None) -> dict[str, np.ndarray]:
    """{name: [N]}; the labels or values of a row that has several of them are numbered."""
    columns: dict[str, np.ndarray] = {}
    if prediction.values is not None:
        columns |= numbered("value", prediction.values)
    if prediction.labels is not None:
        columns |= numbered("label", prediction.labels)
    if prediction.probabilities is not None and prediction.probabilities.ndim == 2:  # not for every time step
        names = [f"probability {name}" for name in classes or ()]
        columns |= dict(zip(names, prediction.probabilities.T, strict=True))
    return columns


def numbered(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """{name: [N]} of an array [N, ...], or {name 0: [N], name 1: [N], ...} where its rows have several entries."""
    flat = array.reshape(len(array), -1)
    return {name if flat.shape[1] == 1 else f"{name} {i}": column for i, column in enumerate(flat.T)}


def as_cell(value: Any) -> str:
    """A text as it is, and a number with as many digits as give a float32 back."""
    return value if isinstance(value, str) else f"{value:.9g}"


def read_npz_rows(path: Path) -> np.ndarray:
    """The array x of an .npz file, or its only one."""

    def chosen(names: Iterable[str]) -> list[str]:
        present = sorted(names)
        if "x" not in present and len(present) != 1:
            raise InputError(f"{path}: has no array x, only {', '.join(present)}")
        return ["x"] if "x" in present else present

    return next(iter(read_npz(path, chosen).values()))
