"""Columns of a table: missing values, texts, and new rows in every form, with the bits that training saw."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

from jaxbp.data import Csv, Dataset, Preparation
from jaxbp.data.prepare import split_test
from jaxbp.errors import InputError

TYPES = {"number": float, "text": str}
NAMES = ("long", "wide", "shape", "color")


def written(names: list[str], rows: list[list]) -> str:
    """The text of a CSV file; None is an empty cell."""
    file = io.StringIO()
    csv.writer(file).writerows([names, *(["" if cell is None else cell for cell in row] for row in rows)])
    return file.getvalue()


def refused(load, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load()
    assert "\n" not in str(caught.value)


@pytest.fixture
def table(tmp_path):
    """Writes a table with these names to a file and gives its path."""

    def write(names: list[str], rows: list[list]) -> str:
        (tmp_path / "t.csv").write_text(written(names, rows))
        return str(tmp_path / "t.csv")

    return write


def training_rows(examples: int, fraction: float, seed: int = 0) -> np.ndarray:
    """The numbers of the rows that become the training part of a regression table."""
    rows = Dataset(np.arange(examples), np.zeros((examples, 1)))
    return split_test(rows, None, fraction, seed)[0].x


# --- missing values and texts, against scikit-learn --------------------------------------------------------------

rng = np.random.default_rng(0)
LONG = [None if i in (2, 7) else float(v) for i, v in enumerate(rng.normal(size=30).round(3))]
WIDE = [None if i == 11 else int(v) for i, v in enumerate(rng.integers(0, 4, 30))]
SHAPE = [None if i in (4, 20) else str(v) for i, v in enumerate(rng.choice(["round", "flat", "Flat", "a b"], 30))]
MIXED = [[long, wide, shape, i] for i, (long, wide, shape) in enumerate(zip(LONG, WIDE, SHAPE, strict=True))]
HEAD = ["long", "wide", "shape", "y"]
REGRESSION = {"task": "regression", "test_fraction": 0.4}


@pytest.mark.parametrize("missing", ["mean", "median", "most_frequent"])
@pytest.mark.parametrize("text", ["one_hot", "ordinal"])
def test_fills_and_codes_are_those_of_scikit_learn_on_the_training_part(table, missing, text):
    splits = Csv(table(HEAD, MIXED), missing=missing, text=text, **REGRESSION).load()
    train = training_rows(30, 0.4)
    numbers = np.array([LONG, WIDE], float).T
    texts = np.array([SHAPE], object).T
    imputer = SimpleImputer(strategy=missing).fit(numbers[train])
    text_imputer = SimpleImputer(strategy="most_frequent", missing_values=None).fit(texts[train])
    encoder = (OneHotEncoder(sparse_output=False) if text == "one_hot" else OrdinalEncoder()).fit(
        text_imputer.transform(texts[train])
    )
    for part, rows in ((splits.train, train), (splits.test, np.setdiff1d(np.arange(30), train))):
        codes = encoder.transform(text_imputer.transform(texts[rows]))
        expected = np.hstack([imputer.transform(numbers[rows]), codes]).astype(np.float32)
        np.testing.assert_array_equal(part.x, expected)


def test_rows_with_a_missing_value_are_dropped(table):
    splits = Csv(table(HEAD, MIXED), missing="drop", text="ordinal", **REGRESSION).load()
    whole = [i for i, row in enumerate(MIXED) if None not in row]
    y = np.concatenate([splits.train.y, splits.test.y]).ravel()
    assert sorted(y) == whole
    rows = [[*row[:3], None] if i == 0 else row for i, row in enumerate(MIXED)]
    splits = Csv(table(HEAD, rows), missing="drop", text="ordinal", **REGRESSION).load()
    assert sorted(np.concatenate([splits.train.y, splits.test.y]).ravel()) == whole[1:]
    refused(
        Csv(table(["a", "y"], [[None, 1]] * 5), header=True, missing="drop").load, "every row has a missing value, an"
    )


@pytest.mark.parametrize("text", ["", "?", "NA", "n/a", "#N/A", "NaN", "null", "<NA>", " "])
def test_what_stands_for_a_missing_value(table, text):
    path = table(["a", "kind"], [[i % 5, "xy"[i % 2]] for i in range(10)] + [[text, "x"]])
    refused(
        Csv(path).load,
        rf"t\.csv, line 12, column 'a': the value is missing, got '{re.escape(text.strip())}'; missing='drop'",
    )
    assert len(Csv(path, missing="drop", test_fraction=0.2).load().train) == 8
    refused(
        Csv(path, target=0, features=(1,), text="one_hot", missing="mean").load, "line 12, column 'a': the label is mi"
    )


def test_a_column_without_any_value_is_refused(table):
    rows = [[i % 5, None, "xy"[i % 2]] for i in range(10)]
    message = r"^column 'b' has no value in the training part; exclude=\('b',\) leaves it out$"
    refused(Csv(table(["a", "b", "kind"], rows), missing="mean").load, message)


def test_columns_of_text_are_refused_or_asked_for(table):
    path = table(["a", "b", "kind"], [[i % 5, "uv"[i % 2], "xy"[i % 2]] for i in range(10)])
    refused(
        Csv(path).load, r"line 2, column 'b': 'u' is not a finite number; text='one_hot' or text='ordinal' takes colu"
    )
    splits = Csv(path, text="one_hot").load()
    np.testing.assert_array_equal(splits.train.x[:, 1:].sum(axis=1), 1)


def test_numbers_as_categories(table):
    path = table(["zip", "kind"], [[("10", "2", "x")[i % 3], "xy"[i % 2]] for i in range(12)])
    message = (
        r"column 'zip': 'x' is not a finite number, and others in its column are; categories=\('zip',\) takes the col"
    )
    refused(Csv(path, text="one_hot").load, message)
    preparation = Csv(path, text="one_hot", categories=("zip",)).load().preparation
    assert preparation.raw.categories == (("10", "2", "x"),)
    np.testing.assert_array_equal(preparation.apply([[2], ["x"], [10.0]]), np.eye(3, dtype=np.float32)[[1, 2, 0]])


@pytest.mark.parametrize("cell", ["2026-11-25", "1_000"])
def test_dates_are_no_texts_unless_told_so(table, cell):
    path = table(["when", "a", "kind"], [[cell, i % 5, "xy"[i % 2]] for i in range(10)])
    refused(
        Csv(path, text="one_hot").load, rf"line 2, column 'when': '{cell}' .*; categories=\('when',\) takes the column"
    )
    assert Csv(path, text="one_hot", categories=("when",)).load().train.x.shape[1] == 2


# --- a text that no training row has -----------------------------------------------------------------------------


def test_a_text_of_the_test_part_alone_becomes_zeros(table):
    train = training_rows(20, 0.4)
    rows = [["uv"[i % 2] if i in train else "w", i] for i in range(20)]
    path = table(["a", "y"], rows)
    splits = Csv(path, text="one_hot", **REGRESSION).load()
    np.testing.assert_array_equal(splits.test.x, np.zeros((8, 2)))
    refused(
        Csv(path, text="ordinal", **REGRESSION).load, r"^column 'a': no training row has 'w'; text='one_hot' would m"
    )


@pytest.mark.parametrize("text", ["one_hot", "ordinal"])
def test_an_unknown_text_in_new_rows_is_refused_with_its_place(table, text):
    path = table(["a", "kind"], [[("rose", "aster")[i % 2], "xy"[i % 2]] for i in range(12)])
    preparation = Csv(path, text=text, header=True).load().preparation
    refused(
        lambda: preparation.apply([{"a": "rose"}, {"a": "roze"}]),
        r"^unknown text in the rows, row 1, column 'a' 'roze'",
    )
    refused(
        lambda: preparation.apply({"a": [True]}), r"^unknown text in the rows, row 0, column 'a' 'True'.* \(allowed: as"
    )
    path = table(["a"], [["aster"], ["tulip"]])
    refused(lambda: preparation.apply(path), r"^unknown text in .*t\.csv, line 3, column 'a' 'tulip'")


@pytest.mark.parametrize("missing", ["refuse", "drop"])
def test_a_missing_value_in_new_rows_is_refused_where_nothing_was_filled(table, missing):
    path = table(["a", "b", "kind"], [[i % 5, "uv"[i % 2], "xy"[i % 2]] for i in range(12)])
    preparation = Csv(path, text="one_hot", missing=missing).load().preparation
    message = (
        r"^the rows, row 1, column '{}': the value is missing, and the model has learned no value for it \(data\.mis"
    )
    refused(lambda: preparation.apply([[1, "u"], [None, "u"]]), message.format("a"))
    refused(lambda: preparation.apply([[1, "u"], [1, ""]]), message.format("b"))


def test_a_missing_value_in_new_rows_is_filled_even_where_training_had_none(table):
    path = table(["a", "b", "kind"], [[i % 3, "uuv"[i % 3], "xy"[i % 2]] for i in range(12)])
    preparation = Csv(path, text="ordinal", missing="most_frequent").load().preparation
    rows = preparation.apply([[None, None], [np.nan, ""], [2, "v"]])
    assert rows.tolist()[1:] == [rows.tolist()[0], [2, 1]]
    assert rows[0, 1] == 0


# --- new rows in every form --------------------------------------------------------------------------------------


@st.composite
def tables(draw):
    """(kinds of the columns, rows of cells): numbers and texts, some of them missing."""
    kinds = draw(st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=4))
    count = draw(st.integers(5, 25))
    cells = {
        "number": st.floats(-1e6, 1e6) | st.integers(-1000, 1000),
        "text": st.sampled_from(["red", "green", "Blue", "a, b", 'c"d', "é"]),
    }
    columns = []
    for kind in kinds:
        column = draw(st.lists(cells[kind] | st.none(), min_size=count, max_size=count))
        columns.append([*column[:-1], column[-1] if any(c is not None for c in column) else draw(cells[kind])])
    return kinds, [list(row) for row in zip(*columns, strict=True)]


@settings(max_examples=60, deadline=None)
@given(
    tables(),
    st.sampled_from(["drop", "mean", "median", "most_frequent"]),
    st.sampled_from(["one_hot", "ordinal"]),
    st.sampled_from(["none", "standard", "min_max"]),
    st.integers(0, 2**32 - 1),
)
def test_new_rows_have_the_bits_that_training_saw(table, missing, text, scaling, seed):
    kinds, rows = table
    names = [f"{kind}{i}" for i, kind in enumerate(kinds)]
    keys = {"task": "regression", "header": True, "missing": missing, "text": text, "scaling": scaling, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        path.write_text(written([*names, "y"], [[*row, i] for i, row in enumerate(rows)]), encoding="utf-8")
        try:
            splits = Csv(str(path), target="y", categories=tuple(n for n in names if n[0] == "t"), **keys).load()
        except InputError:  # no row is whole, no value in the training part, a text in the test part alone
            reject()
        kept = [row for row in rows if missing != "drop" or None not in row]
        seen = [kept[i] for i in training_rows(len(kept), 0.2, seed)]
        preparation = Preparation.from_json(json.loads(json.dumps(splits.preparation.to_json())))
        assert preparation == splits.preparation
        path.write_text(written(names, seen), encoding="utf-8")
        backwards = [dict(zip(names[::-1], row[::-1], strict=True)) for row in seen]
        for form in (
            seen,
            np.array(seen, object),
            backwards,
            {name: [row[i] for row in seen] for i, name in enumerate(names)},
            path,
        ):
            x = preparation.apply(form)
            assert (x.dtype, x.shape) == (np.float32, splits.train.x.shape)
            assert x.tobytes() == splits.train.x.tobytes()


def test_pandas_rows_have_the_bits_that_training_saw(table):
    pandas = pytest.importorskip("pandas", reason="needs jaxbp[tables]")
    splits = Csv(table(HEAD, MIXED), missing="mean", text="one_hot", scaling="standard", **REGRESSION).load()
    frame = pandas.DataFrame(MIXED, columns=HEAD).iloc[training_rows(30, 0.4)]
    for rows in (frame, frame[["shape", "long", "wide"]], frame.astype({"wide": "Int64", "shape": "category"})):
        assert splits.preparation.apply(rows).tobytes() == splits.train.x.tobytes()


@pytest.fixture
def preparation(table):
    rows = [[i % 5, i * 0.5, "xy"[i % 2]] for i in range(12)]
    return Csv(table(["long", "wide", "kind"], rows)).load().preparation


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [1.0, 2.0],
            r"^the rows: have shape \[2\], and the model takes \[N, 2\]; a single row stands in brackets of its",
        ),
        ([[1.0, 2.0, 3.0]], r"^the rows: have shape \[1, 3\], and the model takes \[N, 2\]$"),
        ([[1.0, 2.0], [3.0]], r"^the rows: have shape \[2\], and the model"),
        ([], r"^the rows: have shape \[0\]"),
        (np.zeros((0, 2)), r"^the rows: there are none$"),
        (
            {"long": 1.0, "wide": 2.0},
            r"^the rows: a mapping holds columns, and 'long' is 1\.0; a single row is \[\{\.\.\.\}\]$",
        ),
        (
            {"long": [1.0], "wide": [2.0, 3.0]},
            r"^the rows: all columns must have one length, got \{'long': 1, 'wide': 2\}$",
        ),
        ({"long": [1.0]}, r"^the rows: has no column 'wide', which the model needs$"),
        (
            {"long": [1.0], "wide": [1.0], "hue": [1]},
            r"^unknown column in the rows 'hue' \(allowed: kind, long, wide\)$",
        ),
        ([{"long": 1.0, "wdie": 2.0}], r"^unknown column in the rows 'wdie'; did you mean 'wide'\?"),
        (
            [{"long": 1.0, "wide": 2.0}, {"long": 1.0}],
            r"^the rows: all must have the same names; row 0 has long, wide, row 1",
        ),
        ([{"long": 1.0, "wide": 2.0}, 3], r"^the rows: all must have the same names; .* row 1 3$"),
        ([[1.0, "two"]], r"^the rows, row 0, column 'wide': 'two' is not a finite number$"),
        ([[1.0, np.inf]], r"^the rows, row 0, column 'wide': 'inf' is not a finite number in float32$"),
        ([[1.0, 1e39]], r"^the rows, row 0, column 'wide': '1e\+39' is not a finite number in float32$"),
        ([["1_0", 1.0]], r"^the rows, row 0, column 'long': '1_0' must be written 10$"),
        (np.array([[1.0, np.nan]]), r"^the rows, row 0, column 'wide': the value is missing, and"),
        ([[1.0, [2.0]]], r"^the rows, row 0, column 'wide': '\[2\.0\]' is not a finite number$"),
        ("absent.csv", r"^cannot read absent\.csv \(No such file or directory\)$"),
        (3, r"^the rows: have shape \[\], and the model takes \[N, 2\]$"),
    ],
)
def test_new_rows_that_do_not_fit_are_refused_in_a_line(preparation, rows, message):
    refused(lambda: preparation.apply(rows), message)


def test_new_rows_as_files_have_any_delimiter_and_order(preparation, tmp_path):
    for text in ("long,wide\n3,4\n", "wide;long\n4;3\n", "kind\twide\tlong\nx\t4\t3\n", "wide long\n4 3\n"):
        (tmp_path / "n.csv").write_text(text)
        assert preparation.apply(tmp_path / "n.csv").tolist() == [[3, 4]]
    assert preparation.apply([["3", " 4 "]]).tolist() == [[3, 4]]
