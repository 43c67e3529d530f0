"""Tables in pandas frames and Parquet files: the same as in text, and what is said of those that are no tables."""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import date

import numpy as np
import pytest

from jaxbp.data import Csv, Frame, Parquet
from jaxbp.errors import InputError


def refused(load, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load()
    assert "\n" not in str(caught.value)


@pytest.fixture
def pandas():
    pytest.importorskip("pyarrow", reason="needs jaxbp[tables]")
    return pytest.importorskip("pandas", reason="needs jaxbp[tables]")


KEYS = {"target": "kind", "missing": "mean", "text": "one_hot", "scaling": "standard"}


@pytest.fixture
def frame(pandas):
    """Numbers of several types, texts, and missing values of each."""
    return pandas.DataFrame(
        {
            "long": np.arange(12) ** 2,
            "wide": np.where(np.arange(12) == 3, np.nan, np.arange(12) / 4).astype(np.float32),
            "count": pandas.array([None, *range(11)], dtype="Int64"),
            "shape": [None, "flat", *["round", "flat"] * 5],
            "size": pandas.Categorical(["big", "small", "big"] * 4),
            "kind": ["x", "y"] * 6,
        }
    )


def test_a_frame_a_parquet_file_and_a_csv_file_are_the_same_table(frame, tmp_path):
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    configs = (
        Frame.of(frame, **KEYS),
        Parquet(str(tmp_path / "t.parquet"), **KEYS),
        Csv(str(tmp_path / "t.csv"), **KEYS),
    )
    first, *others = (config.load() for config in configs)
    assert first.train.x.shape[1] == 3 + 2 + 2
    for splits in others:
        assert splits.preparation == first.preparation
        np.testing.assert_array_equal(splits.train.x, first.train.x)
        np.testing.assert_array_equal(splits.test.y, first.test.y)
    rows = [first.preparation.apply(rows) for rows in (frame, tmp_path / "t.parquet", tmp_path / "t.csv")]
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(rows[0], rows[2])


def test_a_frame_is_known_by_its_content(frame):
    config = Frame.of(frame, **KEYS)
    assert config == Frame.of(frame.copy(), **KEYS)
    assert config != Frame.of(frame.assign(long=1), **KEYS)
    before = config.load().train.x
    frame.loc[:, "wide"] = 0
    np.testing.assert_array_equal(config.load().train.x, before)
    refused(Frame("0" * 64).load, r"^the frame 000000000000 is not in this process: Frame\.of\(frame\) brings it in$")
    refused(
        lambda: Frame.of(frame.assign(kind=[[1]] * 12)), r"^Frame\.of takes numbers and texts in its cells \(unhash"
    )
    refused(lambda: Frame.of([1]), r"^Frame\.of takes a pandas\.DataFrame, got list$")


def test_integer_labels_of_a_frame_stay_apart(pandas):
    labels = [2**53, 2**53 + 1] * 6
    splits = Frame.of(pandas.DataFrame({"a": np.arange(12.0) ** 2, "kind": labels})).load()
    assert splits.classes == (str(2**53), str(2**53 + 1))


@pytest.mark.parametrize("values", ["dates", "times", "complex"])
def test_columns_of_a_frame_that_are_no_features(pandas, values):
    column = {
        "dates": pandas.date_range("2026-01-01", periods=12),
        "times": [date(2026, 1, 1)] * 12,
        "complex": np.full(12, 1j),
    }[values]
    frame = pandas.DataFrame({"when": column, "a": np.arange(12.0) ** 2, "kind": ["x", "y"] * 6})
    refused(Frame.of(frame).load, "^the frame, row 0, column 'when': '.*' is (a date or time|not a finite number)")


def test_two_columns_of_one_name_are_refused(pandas):
    frame = pandas.DataFrame([[1, 2, "x"]] * 12, columns=["a", "a", "kind"])
    refused(Frame.of(frame).load, "^the frame: two columns have the name 'a', and names must differ$")


def test_a_damaged_parquet_file_is_refused(frame, tmp_path):
    path = tmp_path / "t.parquet"
    for content in (b"", b"PAR1", b"text,1\n"):
        path.write_bytes(content)
        refused(Parquet(str(path)).load, r"^cannot read .*t\.parquet \(")
    refused(
        Parquet(str(tmp_path / "absent.parquet")).load, r"^cannot read .*absent\.parquet \(No such file or directory"
    )
    frame.to_parquet(path)
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with suppress(InputError):
            Parquet(str(path), **KEYS).load()


@pytest.mark.parametrize("module", ["pandas", "pyarrow"])
def test_what_is_not_installed_is_named(monkeypatch, tmp_path, module):
    if module == "pyarrow":
        pytest.importorskip("pandas", reason="needs jaxbp[tables]")
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    refused(Parquet(str(tmp_path / "t.parquet")).load, r"t\.parquet needs .*pyarrow: pip install 'jaxbp\[tables\]'")
