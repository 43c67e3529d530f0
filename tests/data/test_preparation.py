"""The preparation of raw rows: the same bits as in training, from plain data alone."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from jaxbp.data import (
    Adding,
    Characters,
    Curve,
    Dataset,
    Embedded,
    Encoder,
    Function,
    Idx,
    Images,
    Logic,
    Mnist,
    Npz,
    Reber,
    Reconstruction,
    Splits,
    Text,
)
from jaxbp.data.preparation import Ids, Numbers, Preparation, Scaling
from jaxbp.data.prepare import fit_scaling, split_test
from jaxbp.errors import InputError
from tests.data.test_data_idx import NAMES, small_mnist, write

laws = settings(max_examples=40, deadline=None)


def kept(preparation: Preparation) -> Preparation:
    """The preparation that the run folder gives back."""
    return Preparation.from_json(json.loads(json.dumps(preparation.to_json())))


def same_bits(a: np.ndarray, b: np.ndarray) -> None:
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert a.tobytes() == b.tobytes()


def refused(call, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# --- every data set ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", ["none", "standard", "min_max"])
@pytest.mark.parametrize(
    "config",
    [
        Embedded("digits"),
        Embedded("digits", image=True),
        Embedded("diabetes", scale_targets=True),
        Embedded("wine", validation_fraction=0.2),
        Function("sine"),
    ],
    ids=repr,
)
def test_a_table_in_memory(config, scaling):
    config = replace(config, scaling=scaling)
    data, classes, _ = config.table()
    raw, _ = split_test(data, classes, config.test_fraction, config.seed)
    splits = config.load()
    assert kept(splits.preparation) == splits.preparation
    assert splits.preparation.classes == splits.classes
    x = kept(splits.preparation).apply(raw.x.tolist())
    if splits.validation is None:
        same_bits(x, splits.train.x)
    else:
        rows = {row.tobytes() for row in x}
        assert all(row.tobytes() in rows for part in (splits.train, splits.validation) for row in part.x)


@pytest.mark.parametrize(
    "config", [Adding(examples=5), Characters(), Curve(examples=5), Encoder(), Logic("xor"), Reber()]
)
def test_where_nothing_is_fitted_rows_stay(config):
    splits = config.load()
    assert kept(splits.preparation) == splits.preparation
    same_bits(kept(splits.preparation).apply(splits.test.x), splits.test.x)
    assert splits.preparation.targets(splits.test.y) is splits.test.y


@pytest.mark.parametrize("scaling", ["none", "standard", "min_max"])
@pytest.mark.parametrize("image", [False, True])
def test_raw_images_of_bytes(tmp_path, scaling, image):
    folder = write(tmp_path, small_mnist())
    raw = np.arange(40 * 6).reshape(40, 3, 2)
    for config in (Mnist(str(folder)), Idx(*(str(folder / name) for name in NAMES))):
        splits = replace(config, scaling=scaling, image=image).load()
        preparation = kept(splits.preparation)
        for rows in (raw.astype(np.uint8), raw.tolist(), raw.reshape(40, 6), raw[..., None].astype(np.float64)):
            same_bits(preparation.apply(rows), splits.train.x)
        np.save(tmp_path / "rows.npy", raw.astype(np.uint8))
        same_bits(preparation.apply(tmp_path / "rows.npy"), splits.train.x)
    refused(lambda: preparation.apply(raw / 255), r"^the rows: hold 0\.00392.*, and the model's images have whole num")
    refused(lambda: preparation.apply(raw + 17), r"^the rows: hold 256, and the model's images have whole numbers in")
    refused(lambda: preparation.apply(raw.reshape(40, 2, 3) if image else raw[:, :2]), "^the rows: have shape")


def test_raw_images_of_files(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 3, 2, 3), np.uint8)
    for i, image in enumerate(pixels):
        (tmp_path / f"{i // 5}").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / f"{i // 5}" / f"{i}.png")
    config = Images(str(tmp_path), scaling="standard", test_fraction=0.4)
    data, classes, _ = config.table()
    splits = config.load()
    same_bits(splits.preparation.apply(split_test(data, classes, 0.4, 0)[0].x), splits.train.x)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "uint8", "bool"])
@pytest.mark.parametrize("scaling", ["none", "standard", "min_max"])
def test_arrays_of_a_file(tmp_path, dtype, scaling):
    x = (np.random.default_rng(0).normal(size=(12, 2, 3)) * 30 + 100).astype(dtype)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.arange(12) % 2, x_test=x[:4], y_test=np.arange(4) % 2)
    splits = Npz(str(tmp_path / "a.npz"), scaling=scaling).load()
    for rows in (x, x.tolist(), x.reshape(12, 6).tolist()):
        same_bits(kept(splits.preparation).apply(rows), splits.train.x)


def test_reconstruction_gives_its_inputs_back():
    data = Embedded("wine", scaling="standard")
    raw, _ = split_test(*data.table()[:2], 0.2, 0)
    splits = Reconstruction(data).load()
    same_bits(splits.preparation.apply(raw.x), splits.train.x)
    np.testing.assert_allclose(splits.preparation.targets(splits.train.y), raw.x, rtol=1e-6, atol=1e-6)
    assert splits.preparation.classes is None


def test_text_takes_ids():
    splits = Text(size=5000, length=32).load()
    preparation = kept(splits.preparation)
    assert preparation.raw == Ids(len(splits.classes))
    same_bits(preparation.apply(splits.train.x[:, :5].tolist()), splits.train.x[:, :5])
    message = r"^the rows: the model takes ids \[N, T\], whole numbers in 0\.\.96, and does not prepare anything else$"
    for rows in ([1, 2], [[97]], [[-1]], [[0.5]], [[np.nan]]):
        refused(lambda rows=rows: preparation.apply(rows), message)
    refused(lambda: preparation.apply(["hello"]), r"^the rows: must be an array of numbers, got <U5 \[1\]$")


def test_ids_of_a_data_set_of_ones_own():
    tokens = Dataset(np.full((3, 4), 7, np.int32), np.zeros(3, np.int32))
    preparation = Splits(tokens, None, tokens, ("a", "b")).preparation
    assert kept(preparation) == preparation == Preparation(Ids(), classes=("a", "b"))
    same_bits(preparation.apply([[9, 5]]), np.array([[9, 5]], np.int32))


# --- scaling -----------------------------------------------------------------------------------------------------

kinds = st.sampled_from(["float64", "float32", "float16", "int32", "uint8"])
SCALERS = {"standard": StandardScaler, "min_max": MinMaxScaler}


@laws
@given(st.data(), kinds, st.sampled_from(sorted(SCALERS)))
def test_scaling_is_that_of_scikit_learn_bit_for_bit(data, dtype, kind):
    elements = st.integers(-1000, 1000).map(lambda n: n / 8) if "float" in dtype else st.integers(0, 200)
    x = data.draw(hnp.arrays(dtype, (9, 3), elements=elements))
    scaling = fit_scaling(kind, x[:6])
    same_bits(scaling.apply(x), SCALERS[kind]().fit(x[:6]).transform(x))
    restored = Scaling(kind, *(tuple(json.loads(json.dumps(numbers))) for numbers in (scaling.offset, scaling.scale)))
    same_bits(restored.apply(x), scaling.apply(x))


@laws
@given(hnp.arrays(np.float64, (9, 3), elements=st.floats(-1e3, 1e3, width=16)), st.sampled_from(sorted(SCALERS)))
def test_scaling_can_be_undone(y, kind):
    scaling = fit_scaling(kind, y)
    np.testing.assert_allclose(scaling.undo(scaling.apply(y)), y, rtol=1e-9, atol=1e-9)


def test_targets_come_back_in_their_own_units():
    y = np.array([[1e9 + 1.0], [1e9 + 3], [1e9 + 1], [1e9 + 3]])
    splits = Mnist(scale_targets=True).finish(Dataset(y, y), Dataset(y, y), None)
    np.testing.assert_array_equal(np.unique(splits.train.y), [-1, 1])
    np.testing.assert_array_equal(kept(splits.preparation).targets(splits.train.y), y)
    assert Mnist().finish(Dataset(y, y), Dataset(y, y), None).preparation.target_scaling is None


# --- what does not fit -------------------------------------------------------------------------------------------

FOUR = Preparation(Numbers((4,), "float64"))
IMAGE = Preparation(Numbers((5, 3, 2), "float64"))
SERIES = Preparation(Numbers((60, 2), "float32", steps=True))


@pytest.mark.parametrize(
    ("preparation", "rows", "message"),
    [
        (FOUR, [1.0, 2, 3, 4], r"^the rows: have shape \[4\], and the model takes \[N, 4\]; a single row stands in br"),
        (FOUR, [[1.0, 2, 3]], r"^the rows: have shape \[1, 3\], and the model takes \[N, 4\]$"),
        (FOUR, np.zeros((0, 4)), r"^the rows: there are none$"),
        (FOUR, 3.0, r"^the rows: have shape \[\], and the model takes \[N, 4\]$"),
        (FOUR, [[1, 2], [3]], r"^the rows: are no array \("),
        (FOUR, [["1", "2", "3", "4"]], r"^the rows: must be an array of numbers, got <U1 \[1, 4\]$"),
        (FOUR, {"a": [1.0]}, r"^the rows: must be an array of numbers, got object \[\]$"),
        (FOUR, [[1, 2, np.nan, 4]], r"^the rows: row 0, column 2 holds nan, and every value must be a finite float32$"),
        (FOUR, [[1, 2, 1e39, 4]], r"^the rows: row 0, column 2 holds 1e\+39"),
        (IMAGE, np.zeros((7, 2, 5, 3)), r"^the rows: have shape \[7, 2, 5, 3\], and the model takes \[N, 5, 3, 2\]$"),
        (IMAGE, np.zeros((5, 3, 2)), r"takes \[N, 5, 3, 2\]; a single row stands in brackets of its own$"),
        (SERIES, np.zeros((7, 60, 3)), r"^the rows: have shape \[7, 60, 3\], and the model takes \[N, T, 2\]$"),
        (SERIES, np.zeros((7, 120)), r"^the rows: have shape \[7, 120\], and the model takes \[N, T, 2\]"),
        (FOUR, "absent.npy", r"^cannot read absent\.npy \(No such file"),
        (FOUR, "absent.csv", r"^cannot read absent\.csv \(No such file"),
        (FOUR, __file__, r"^.*test_preparation\.py"),
    ],
)
def test_rows_that_do_not_fit_are_refused_in_a_line(preparation, rows, message):
    refused(lambda: preparation.apply(rows), message)


def test_a_scaled_value_beyond_float32_is_refused():
    tiny = Preparation(Numbers((1,)), Scaling("standard", (0.0,), (1e-30,)))
    refused(lambda: tiny.apply([[1e20]]), r"^the prepared rows: row 0, column 0 holds inf")


def test_shapes_that_say_the_same():
    assert IMAGE.apply(np.zeros((7, 30))).shape == (7, 5, 3, 2)
    assert Preparation(Numbers((5, 3, 1))).apply(np.zeros((7, 5, 3))).shape == (7, 5, 3, 1)
    assert SERIES.apply(np.zeros((7, 11, 2))).shape == (7, 11, 2)


def test_a_pickle_in_an_array_file_is_never_read(tmp_path):
    np.save(tmp_path / "a.npy", np.array([print], dtype=object), allow_pickle=True)
    refused(lambda: FOUR.apply(str(tmp_path / "a.npy")), r"^cannot read .*a\.npy \(Object arrays cannot be loaded")
    np.savez(tmp_path / "b.npy", x=np.zeros((1, 4)))
    (tmp_path / "b.npy.npz").rename(tmp_path / "b.npy")
    refused(lambda: FOUR.apply(tmp_path / "b.npy"), r"^cannot read .*b\.npy \(")


def test_rows_of_a_csv_file_without_a_table(tmp_path):
    (tmp_path / "t.csv").write_text("a;b;c;d\n1;2;3;4\n5;6;7;8\n")
    same_bits(FOUR.apply(tmp_path / "t.csv"), np.arange(1, 9, dtype=np.float32).reshape(2, 4))
    (tmp_path / "t.csv").write_text("1,2,3,4\n5,six,7,8\n")
    refused(lambda: FOUR.apply(tmp_path / "t.csv"), r"t\.csv, line 2, column '1': 'six' is not a finite number$")


WHOLE = Preparation(Numbers((2,)), Scaling("standard", (0.0, 0.0), (1.0, 2.0)), None, ("a", "b")).to_json()


@pytest.mark.parametrize(
    "damaged",
    [
        None,
        [],
        {},
        {**WHOLE, "raw": None},
        {**WHOLE, "raw": {**WHOLE["raw"], "type": "System"}},
        {**WHOLE, "raw": {**WHOLE["raw"], "type": []}},
        {**WHOLE, "raw": {**WHOLE["raw"], "shape": "two"}},
        {**WHOLE, "raw": {**WHOLE["raw"], "dtype": "no type"}},
        {**WHOLE, "scaling": {"kind": "standard"}},
        {**WHOLE, "scaling": [1]},
        {**WHOLE, "scaling": {**WHOLE["scaling"], "scale": [None, 1.0]}},
        {**WHOLE, "classes": "ab"},
        {**WHOLE, "classes": [1]},
    ],
)
def test_what_is_no_preparation_is_refused(damaged):
    refused(lambda: Preparation.from_json(damaged), r"^this is no preparation of data \(")
