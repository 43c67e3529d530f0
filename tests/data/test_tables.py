"""Tables as people have them: delimiters, names, cells that nobody means, columns that are ids, other formats."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from datetime import date
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxbp.data import Csv, Splits
from jaxbp.data.cells import fault, number
from jaxbp.data.table import number_labels
from jaxbp.errors import InputError

FLOWERS = "long,wide,kind\n" + "".join(f"{i},{i / 2},{kind}\n" for i in range(6) for kind in ("rose", "aster"))


@pytest.fixture
def table(tmp_path):
    """Writes text to a file and gives its path."""

    def write(text: str, name: str = "t.csv") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def refused(load, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load()
    assert "\n" not in str(caught.value)


def all_rows(splits: Splits) -> np.ndarray:
    """x of the training and test parts in order."""
    x = np.concatenate([splits.train.x, splits.test.x])
    return x[np.lexsort(x.T)]


# --- a table not seen before -------------------------------------------------------------------------------------


@cache
def sonar() -> tuple[str, np.ndarray]:
    """208 rows of 60 numbers in 0..1 and a letter, without names, as UCI has them; and the numbers."""
    x = np.random.default_rng(0).uniform(size=(208, 60)).round(4)
    letters = ["R"] * 97 + ["M"] * 111
    return "".join(f"{','.join(map(str, row))},{letter}\n" for row, letter in zip(x, letters, strict=True)), x


def test_a_table_without_names_needs_no_key_but_its_path(table):
    text, x = sonar()
    splits = Csv(table(text)).load()
    assert (len(splits.train), len(splits.test), splits.classes) == (166, 42, ("M", "R"))
    np.testing.assert_array_equal(all_rows(splits), x[np.lexsort(x.T)].astype(np.float32))
    folds = list(Csv(table(text), scaling="standard").folds(5, seed=0))
    assert sum(len(fold.test) for fold in folds) == 208


@pytest.mark.parametrize("with_label", [False, True])
def test_new_rows_of_a_table_without_names(table, with_label):
    text, x = sonar()
    preparation = Csv(table(text), scaling="standard").load().preparation
    new = text if with_label else "".join(f"{line.rpartition(',')[0]}\n" for line in text.splitlines())
    rows = preparation.apply(table(new, "new.csv"))
    np.testing.assert_array_equal(rows, preparation.apply(x))
    assert preparation.classes == ("M", "R")


def test_names_hold_where_the_target_comes_first(table):
    text = "".join(f"{kind},{i},{i / 4}\n" for i in range(6) for kind in ("rose", "aster"))
    preparation = Csv(table(text), target=0).load().preparation
    for rows in ("7,8\n", "rose,7,8\n", "1,2\n7,8\n"):
        assert preparation.apply(table(rows, "new.csv")).tolist()[-1] == [7, 8]
    refused(
        lambda: preparation.apply(table("1,2,3,4\n", "n.csv")), r"n\.csv: has 4 columns, and needs the 2 features o"
    )


# --- is the first line names? ------------------------------------------------------------------------------------

ROWS = "1,2.5,x\n3,4,y\n" * 4


@pytest.mark.parametrize(
    ("first", "names"),
    [
        ("a,b,kind\n", True),
        ("a,?,kind\n", True),
        ("1990,b,kind\n", None),  # a column named by a year, or a bad cell
        ("5,6,x\n", False),
        ("5,?,y\n", False),
        ("5,6,z\n", False),
        ("5,abc,x\n", None),
        ("5,abc,z\n", None),
        ("0,1,2\n", None),  # as pandas names columns
        (",0,1\n", None),
        ("?,?,?\n", None),
    ],
)
def test_the_first_line_is_never_lost_silently(table, first, names):
    path = table(first + ROWS)
    if names is None:
        refused(Csv(path).load, r"t\.csv: are names in the first line\? header=True takes it as names, header=False as")
    else:
        read = Csv(path).read()
        assert (read.named, len(read.columns[0])) == (names, 8 if names else 9)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("color,shape\nred,round\nblue,square\n", None),  # nothing but text
        ("red,round\nred,square\nblue,round\n", False),
        ("1,2\n3,4\n", False),
        ("1,2\n", False),
        ("a,b\n1_000,2\n3,4\n5,6\n", True),  # a bad cell below a name
        ("a,b\n1,2\n", True),
    ],
)
def test_names_in_other_tables(table, text, named):
    if named is None:
        refused(Csv(table(text)).read, r"are names in the first line\?")
    else:
        assert Csv(table(text)).read().named == named


@pytest.mark.parametrize("first", ["5,6,7\n", "5,6,x\n", "5,?,x\n", "1,2,y\n"])
def test_data_is_not_taken_as_names_even_if_told_so(table, first):
    refused(Csv(table(first + ROWS), header=True).load, r"the first line holds data, no names; header=False reads it")


@pytest.mark.parametrize("first", ["0,1,2\n", "1990,b,kind\n", "x,y,z\n"])
def test_names_that_might_be_data_are_names_if_told_so(table, first):
    assert Csv(table(first + ROWS), header=True).read().names == first.strip().split(",")


# --- which character stands between columns? ---------------------------------------------------------------------


@pytest.mark.parametrize(("delimiter", "word"), [(";", "';'"), ("\t", "'tab'"), ("|", r"'\|'"), (" ", "' '")])
def test_another_delimiter_is_found_or_named(table, delimiter, word):
    path = table(FLOWERS.replace(",", delimiter))
    refused(Csv(path, target="kind").load, rf"t\.csv: has 1 column with delimiter=',', and delimiter={word} fits it$")
    keys = {"auto", delimiter, "tab" if delimiter == "\t" else delimiter}
    for key in keys:
        splits = Csv(path, delimiter=key).load()
        np.testing.assert_array_equal(all_rows(splits), all_rows(Csv(table(FLOWERS, "c.csv")).load()))


def test_decimal_commas_are_named(table):
    path = table("a;b;kind\n" + "1,5;2,5;x\n3,5;4,5;y\n" * 4)
    refused(Csv(path).load, r"delimiter=';' fits it$")
    refused(Csv(path, delimiter=";").load, r"line 2, column 'a': '1,5' is not a finite number: it may have digits, one")


def test_blanks_and_tabs_in_runs_are_one_delimiter(table):
    """As in the wheat seeds of UCI."""
    path = table("15.26\t14.84\t\t0.871  1\n 14.88 14.57\t0.881 1\n" + "1\t2  3 2\n" * 2)
    splits = Csv(path, delimiter=" ", test_fraction=0.5).load()
    assert splits.train.x.shape == (2, 3)
    np.testing.assert_array_equal(all_rows(Csv(path, delimiter="auto", test_fraction=0.5).load()), all_rows(splits))


def test_sentences_are_no_columns(table):
    path = table("text\n" + "two words\n" * 4)
    refused(Csv(path, delimiter="auto", header=True).load, "features must name columns other than the target, and th")


# --- cells that nobody means -------------------------------------------------------------------------------------

NOT_MEANT = {
    "1_000": "'1_000' must be written 1000$",
    "-1_0.5": "'-1_0.5' must be written -10.5$",
    "\u0663": "'\u0663' must be written 3$",
    "\uff11\uff12": "'\uff11\uff12' must be written 12$",
    "\u22125": "'\u22125' must be written -5$",
    "inf": "'inf' is not a finite number in float32$",
    "-Infinity": "'-Infinity' is not a finite number in float32$",
    "1e39": "'1e39' is not a finite number in float32$",
    "1e999": "'1e999' is not a finite number in float32$",
    '"1,000"': "'1,000' is not a finite number: it may have digits, one point, and a sign$",
    "5%": "'5%' is not a finite number: it",
    "$5": r"'\$5' is not a finite number: it",
    "2026-11-25": "'2026-11-25' is a date or time: give a number in its place, .* leave the column out by exclude$",
    "2026-11-25 10:00:00": "'.*' is a date or time",
    "2026-11-25T10:00Z": "'.*' is a date or time",
    "25/11/2026": "'.*' is a date or time",
    "25.11.26": "'.*' is a date or time",
    "25-Nov-2026": "'.*' is a date or time",
    '"Nov 25, 2026"': "'.*' is a date or time",
    "10:30": "'.*' is a date or time",
    "red": "'red' is not a finite number, and others in its column are$",
    "0x1F": "'0x1F' is not a finite number, and others in its column are$",
}


@pytest.mark.parametrize("cell", NOT_MEANT)
def test_a_cell_that_nobody_means_is_refused_with_its_place(table, cell):
    path = table(f"{FLOWERS}{cell},1,rose\n")
    refused(Csv(path).load, rf"t\.csv, line 14, column 'long': {NOT_MEANT[cell]}")
    refused(Csv(path, target="long", features=("wide",), task="regression").load, r"t\.csv, line 14, column 'long': ")
    refused(
        lambda: Csv(table(FLOWERS)).load().preparation.apply(table(f"long,wide\n{cell},1\n", "n.csv")), "n.csv, line"
    )


@pytest.mark.parametrize("cell", ["1_000", "\u0663", "infinity"])
def test_a_label_that_is_nearly_a_number_is_refused_among_numbers(table, cell):
    path = table("a,kind\n" + "1,5\n2,6\n" * 3 + f"7,{cell}\n" * 2)
    refused(Csv(path).load, rf"t\.csv, line 8, column 'kind': '{cell}' ")
    words = table("a,kind\n" + "1,x\n2,y\n" * 3 + f"7,{cell}\n" * 2, "w.csv")
    assert set(Csv(words, test_fraction=0.5).load().classes) == {"x", "y", cell}


@settings(max_examples=200, deadline=None)
@given(st.text("0123456789+-._eE infaty\u0663\uff11\u2212\xa0\xb9", max_size=8))
def test_a_text_is_a_number_only_in_plain_ascii(text):
    value = number(text)
    assert np.isnan(value) or (float(text) == value and text.isascii() and "_" not in text)


@settings(max_examples=100, deadline=None)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.dates(date(1900, 1, 1)))
def test_numbers_are_numbers_and_dates_are_dates(value, day):
    assert number(str(value)) == value
    for text in (str(day), day.strftime("%d.%m.%Y"), f"{day} 00:00:00", day.strftime("%d %b %Y")):
        assert "is a date" in fault(text)


# --- labels ------------------------------------------------------------------------------------------------------


def test_labels_beyond_float64_stay_apart(table):
    first = 2**53
    path = table("a,kind\n" + f"1,{first}\n2,{first + 1}\n" * 4)
    assert Csv(path).load().classes == (str(first), str(first + 1))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-(2**70), 2**70), min_size=1), st.integers(0, 3))
def test_labels_are_one_if_their_numbers_are(values, zeros):
    numbers, classes = number_labels([*map(str, values), *(f"{v}.{'0' * (zeros + 1)}" for v in values)])
    np.testing.assert_array_equal(numbers[: len(values)], numbers[len(values) :])
    assert [int(float(name)) if "e" in name else int(name) for name in classes] == sorted(set(values))


@pytest.mark.parametrize("values", [np.linspace(-5, 5, 12), range(12)])
def test_numbers_to_predict_are_named(table, values):
    path = table("a,b,y\n" + "".join(f"{i % 3},{i},{value}\n" for i, value in enumerate(values)))
    message = r"t\.csv, column 'y': class '(-5|0)' has 1 example, and .*; task='regression' predicts numbers$"
    refused(Csv(path).load, message)
    refused(lambda: Csv(path).folds(2, 0), message)
    assert Csv(path, task="regression").load().classes is None


# --- columns that are no features --------------------------------------------------------------------------------


def test_texts_that_all_differ_are_named_as_ids(table):
    path = table("name,long,kind\n" + "".join(f"A{i}x,{i % 5},{'xy'[i % 2]}\n" for i in range(12)))
    message = (
        r"t\.csv, line 2, column 'name': 'A0x' is not .*, and all texts in its column differ; exclude=\('name',\) l"
    )
    refused(Csv(path).load, message)
    refused(Csv(path, text="one_hot").load, message)
    assert Csv(path, exclude=("name",)).load().train.x.shape[1] == 1
    assert Csv(path, text="one_hot", categories=("name",)).load().train.x.shape[1] > 1


@pytest.mark.parametrize("first", [0, 1, 100])
def test_a_first_column_that_counts_is_named(table, capsys, first):
    path = table("id,long,kind\n" + "".join(f"{first + i},{i % 5},{'xy'[i % 2]}\n" for i in range(12)))
    assert Csv(path).load().train.x.shape[1] == 2
    err = capsys.readouterr().err
    assert err == f"note: {path}: column 'id' only counts the rows; exclude=('id',) leaves it out\n"
    assert Csv(path, exclude=(0,)).load().train.x.shape[1] == 1
    Csv(path, features=("id", "long")).load()
    Csv(path, features=("id",)).load()
    assert capsys.readouterr().err == ""


def test_excluded_and_unknown_columns_of_new_rows(table):
    path = table("id,long,kind\n" + "".join(f"{i},{i % 5},{'xy'[i % 2]}\n" for i in range(12)))
    preparation = Csv(path, exclude=("id",)).load().preparation
    for rows in ("long\n3\n", "kind,long,id\nx,3,7\n", "long,id\n3,\n"):
        assert preparation.apply(table(rows, "n.csv")).tolist() == [[3]]
    refused(
        lambda: preparation.apply(table("long,colour\n3,4\n", "n.csv")), r"^unknown column in .*n\.csv 'colour' \(al"
    )
    refused(
        lambda: preparation.apply(table("id,kind\n3,4\n", "n.csv")), r"n\.csv: has no column 'long', which the model"
    )
    message = r"n\.csv: its first line must hold the columns' names, such as 'long'$"
    refused(lambda: preparation.apply(table("7\n3\n", "n.csv")), message)


# --- width -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_thirty_thousand_columns(table):
    """Quadratic work anywhere would show: 30,000 squared is a billion."""
    names = [f"gene{i}" for i in range(30_000)]
    x = np.random.default_rng(0).normal(size=(8, 30_000)).astype(np.float32)
    rows = "".join(f"{','.join(map(str, row))},{'xy'[i % 2]}\n" for i, row in enumerate(x))
    path = table(f"{','.join(names)},kind\n{rows}")
    splits = Csv(path, features=tuple(names), exclude=(), missing="mean", scaling="min_max", test_fraction=0.5).load()
    assert splits.preparation.apply(path).shape == (8, 30_000)


# --- keys --------------------------------------------------------------------------------------------------------

OTHER = {  # key: another value, which must change what is read from MESSY
    "path": "other.csv",
    "max_bytes": 1000,
    "header": False,
    "delimiter": ";",
    "target": "shape",
    "features": ("long",),
    "exclude": ("wide",),
    "task": "regression",
    "missing": "median",
    "text": "ordinal",
    "categories": ("wide",),
    "test_fraction": 0.5,
    "validation_fraction": 0.2,
    "scaling": "min_max",
    "scale_targets": True,
    "one_hot": True,
    "seed": 1,
}
BESIDE = {"scale_targets": {"task": "regression"}}


def test_every_key_changes_what_is_read(table):
    assert {field.name for field in fields(Csv)} == OTHER.keys()
    rows = [f"{i * i},{i % 3},{'round' if i % 2 else 'flat'},{i % 2}\n" for i in range(20)]
    text = "long,wide,shape,kind\n" + "".join(rows[:-1]) + ",1,flat,1\n"
    path = table(text)
    table(text.replace("9", "8"), "other.csv")

    def seen(**keys):
        try:
            splits = Csv(**{"path": path, "text": "one_hot", "missing": "mean"} | keys).load()
        except InputError:
            return None
        return [part and (part.x.tolist(), part.y.tolist()) for part in (splits.train, splits.validation, splits.test)]

    for key, value in OTHER.items():
        beside = BESIDE.get(key, {})
        value = path.replace("t.csv", value) if key == "path" else value
        assert seen(**beside) is not None
        assert seen(**beside, **{key: value}) != seen(**beside), key


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"categories": ("long",)}, r"^categories need text='one_hot' or text='ordinal'$"),
        (
            {"features": (0,), "exclude": (1,)},
            r"^features and exclude both choose columns, and only one of them can be",
        ),
        ({"delimiter": "auto,"}, r"^delimiter must be one character, 'tab' or 'auto', got 'auto,'$"),
        ({"header": "yes"}, r"^Csv: header must be True or False or one of 'auto', got 'yes'$"),
        ({"missing": "zero"}, r"^unknown Csv missing 'zero'.* \(allowed: drop, mean, median, most_frequent, refuse\)$"),
        ({"text": "onehot"}, r"^unknown Csv text 'onehot'; did you mean 'one_hot'\?"),
        ({"exclude": ("lnog",)}, r"^unknown column of .*t\.csv 'lnog'; did you mean 'long'\?"),
        ({"exclude": (0, 1)}, r"t\.csv: features must name columns other than the target, and there are none$"),
    ],
)
def test_keys_that_cannot_be(table, keys, message):
    path = table(FLOWERS)
    refused(lambda: Csv(path, **keys).load(), message)


def test_prediction_needs_neither_scikit_learn_nor_pandas(table):
    path = table(FLOWERS)
    preparation = Csv(path, scaling="standard", text="one_hot", missing="mean").load().preparation
    code = (
        "import sys, json; from jaxbp.data import Preparation; "
        f"x = Preparation.from_json(json.loads({__import__('json').dumps(preparation.to_json())!r})).apply({path!r}); "
        "print(x.shape, [name for name in ('sklearn', 'pandas', 'pyarrow') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "(12, 2) []\n"
