"""Data in files of the user's: tables, arrays, images; what is read from good ones, and what is said of bad ones."""

from __future__ import annotations

from contextlib import suppress
from itertools import product
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import jaxbp
from jaxbp.data import Csv, Images, Npz, Splits
from jaxbp.data.images import read_image
from jaxbp.data.npz import read_npz
from jaxbp.data.table import number_labels
from jaxbp.errors import InputError


def everything(splits: Splits) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the training and the test part together."""
    return tuple(np.concatenate([getattr(p, letter) for p in (splits.train, splits.test)]) for letter in "xy")


def refused(load, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load()
    assert "\n" not in str(caught.value)


# --- Csv ---------------------------------------------------------------------------------------------------------

FLOWERS = "long,wide,kind\n" + "".join(f"{i},{i / 2},{kind}\n" for i in range(4) for kind in ("rose", "aster"))


@pytest.fixture
def table(tmp_path):
    """Writes text to a file and gives its path."""

    def write(text: str | bytes) -> str:
        (tmp_path / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(tmp_path / "t.csv")

    return write


def test_csv_with_names_and_text_labels(table):
    splits = Csv(table(FLOWERS), test_fraction=0.25).load()
    x, y = everything(splits)
    assert splits.classes == ("aster", "rose")
    assert (x.shape, x.dtype, y.dtype) == ((8, 2), np.float32, np.int32)
    np.testing.assert_array_equal(x[:, 1], x[:, 0] / 2)
    np.testing.assert_array_equal(np.bincount(splits.test.y), [1, 1])


def test_csv_numeric_labels_are_numbered_in_sorted_order(table):
    """As in the wheat seeds: no header, classes 1, 2, 3 in the last column."""
    rows = "".join(f"{label * 7},{label}\n" for label in (3, 10, 2) * 4)
    splits = Csv(table(rows), header=False, test_fraction=0.25).load()
    x, y = everything(splits)
    assert splits.classes == ("2", "3", "10")
    np.testing.assert_array_equal(np.array([14, 21, 70])[y], x[:, 0])


def test_csv_keys_change_what_is_read(table):
    def read(text, **keys):
        return everything(Csv(table(text), test_fraction=0.5, **keys).load())

    assert read(FLOWERS, features=("wide",))[0].max() == 1.5
    np.testing.assert_array_equal(*(read(FLOWERS, features=chosen)[0] for chosen in ((1, -3), ("wide", 0))))
    _, y = read(FLOWERS, target="long", features=("wide",), task="regression")
    assert (y.shape, y.dtype, y.max()) == ((8, 1), np.float32, 3)
    np.testing.assert_array_equal(np.bincount(read(FLOWERS, target=0, features=("wide",))[1]), 2)
    np.testing.assert_array_equal(read(FLOWERS.replace(",", ";"), delimiter=";")[0], read(FLOWERS)[0])


def test_csv_takes_what_spreadsheets_write(table):
    """A byte order mark, quotes, carriage returns, blanks around cells and an empty last line."""
    text = FLOWERS.replace("\n", "\r\n").replace(",", " , ").replace("rose", '"rose"').replace(' "', '"') + "\r\n"
    path = table(b"\xef\xbb\xbf" + text.encode())
    splits = Csv(path, target="kind", features=("long", "wide"), test_fraction=0.25).load()
    assert splits.classes == ("aster", "rose")


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        (
            FLOWERS.replace("2,1.0,rose", "2,,rose"),
            {},
            r"t\.csv, line 6, column 'wide': the value is missing, got ''; m",
        ),
        (
            FLOWERS.replace("2,1.0,rose", "2,red,rose"),
            {},
            r"t\.csv, line 6, column 'wide': 'red' is not a finite number, and others in its column are$",
        ),
        (
            FLOWERS.replace("2,1.0,rose", "nan,1,rose"),
            {},
            r"t\.csv, line 6, column 'long': the value is missing, got 'nan'; missing='drop' leaves the row out; 'me",
        ),
        (FLOWERS.replace("2,1.0,rose", "1e39,1,rose"), {}, r"t\.csv, line 6, column 'long': '1e39' is not a finite"),
        (
            FLOWERS.replace("2,1.0,rose", "2,1.0,"),
            {},
            r"t\.csv, line 6, column 'kind': the label is missing, got ''; m",
        ),
        (FLOWERS.replace("2,1.0,rose", "2,1.0,NaN"), {}, r"line 6, column 'kind': the label is missing, got 'NaN'; m"),
        (FLOWERS.replace("2,1.0,rose", "2,1.0"), {}, r"t\.csv, line 6: has 2 columns, and 3 are expected$"),
        (FLOWERS.replace("2,1.0,rose", '2,1.0,"rose'), {}, r"^cannot read .*t\.csv \(unexpected end of data\)$"),
        (FLOWERS, {"task": "regression"}, r"t\.csv, line 2, column 'kind': 'rose' is not a finite number$"),
        (FLOWERS, {"header": False}, r"t\.csv, line 1, column '0': 'long' is not a finite number, and others"),
        ("1,2\n3,4\n", {"header": True}, r"t\.csv: the first line holds data, no names; header=False reads it as data"),
        ("", {}, r"t\.csv: holds no rows of data$"),
        ("a,b\n", {}, r"t\.csv: holds no rows of data$"),
        ("", {"header": False}, r"t\.csv: holds no rows of data$"),
        ("a,b,a\n1,2,3\n", {}, r"t\.csv: two columns have the name 'a'"),
        (b"a,b\n\xff,1\n", {}, r"^cannot read .*t\.csv \('utf-8' codec"),
        (FLOWERS, {"target": "king"}, r"^unknown column of .*t\.csv 'king'; did you mean 'kind'\? \(allowed: kind, l"),
        (FLOWERS, {"features": ("lnog",)}, r"^unknown column of .* 'lnog'; did you mean 'long'"),
        (FLOWERS, {"target": 3}, r"t\.csv: has no column 3, its columns are 0\.\.2$"),
        (FLOWERS, {"target": -4}, r"t\.csv: has no column -4"),
        (FLOWERS, {"features": ("long", 2)}, r"features must name columns other than the target, got \('long', 2\)$"),
        ("kind\nrose\n", {"header": True}, r"features must name columns other than the target"),
        (FLOWERS, {"delimiter": ", "}, r"^delimiter must be one character, 'tab' or 'auto', got ', '$"),
        (FLOWERS, {"task": "regresion"}, r"^unknown Csv task 'regresion'; did you mean 'regression'"),
    ],
)
def test_csv_refuses(table, text, keys, message):
    path = table(text)
    refused(lambda: Csv(path, **keys).load(), message)


def test_csv_refuses_a_missing_file(tmp_path):
    refused(Csv(str(tmp_path / "absent.csv")).load, r"^cannot read .*absent\.csv \(No such file or directory\)$")


words = st.text(st.characters(categories=["L"])).filter(lambda word: word.lower() not in ("nan", "inf", "infinity"))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-(10**6), 10**6), min_size=1) | st.lists(words, min_size=1))
def test_labels_are_numbered_in_order(values):
    y, classes = number_labels([str(v) for v in values])
    assert y.dtype == np.int32
    assert [classes[i] for i in y] == [str(v) for v in values]
    assert list(classes) == [str(v) for v in sorted(set(values))]


# --- Npz ---------------------------------------------------------------------------------------------------------


def npz(folder: Path, **arrays: np.ndarray) -> str:
    np.savez(folder / "a.npz", **arrays)
    return str(folder / "a.npz")


X = np.arange(24, dtype=np.float64).reshape(12, 2)
LABELS = np.array([7, -1, 7, -1, 7, -1, 7, -1, 7, -1, 7, -1])
FOUR = {"x_train": X, "y_train": LABELS, "x_test": X[:4], "y_test": LABELS[:4]}


def test_npz_with_both_parts(tmp_path):
    splits = Npz(npz(tmp_path, **FOUR)).load()
    assert splits.classes == ("-1", "7")
    np.testing.assert_array_equal(splits.train.x, X)
    np.testing.assert_array_equal(splits.test.y, [1, 0, 1, 0])
    assert (splits.test.x.dtype, splits.test.y.dtype) == (np.float32, np.int32)


def test_npz_from_which_the_test_part_is_split(tmp_path):
    splits = Npz(npz(tmp_path, x=X, y=LABELS), test_fraction=0.5, validation_fraction=0.5).load()
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [3, 3, 6]
    np.testing.assert_array_equal(np.bincount(splits.test.y), [3, 3])


@pytest.mark.parametrize(
    ("y", "classes", "shape"),
    [
        (np.linspace(0, 1, 12), None, (1,)),
        (np.ones((12, 3), np.float32), None, (3,)),
        (np.array(["no", "yes"] * 6), ("no", "yes"), ()),
        (LABELS > 0, ("False", "True"), ()),
        (LABELS.astype(np.uint8), ("7", "255"), ()),
    ],
)
def test_npz_targets_and_labels(tmp_path, y, classes, shape):
    splits = Npz(npz(tmp_path, x=X.astype(np.uint8), y=y), test_fraction=0.5).load()
    assert splits.classes == classes
    assert splits.train.y.shape[1:] == shape
    assert splits.train.x.dtype == np.float32


NAN = np.where(X == 5, np.nan, X)


@pytest.mark.parametrize(
    ("arrays", "keys", "message"),
    [
        ({"x": X, "y": LABELS}, {}, r"a\.npz: has no array x_train, only x, y \(with test_fraction x and y are needed"),
        (FOUR, {"test_fraction": 0.5}, r"a\.npz: has no array x, only x_test, x_train, y_test, y_train"),
        ({"x": X}, {"test_fraction": 0.5}, r"a\.npz: has no array y, only x "),
        ({"x": X, "y": LABELS}, {"test_fraction": 1.0}, r"test_fraction must be .* in \(0, 1\) or None, got 1\.0$"),
        ({**FOUR, "x_test": NAN[:4]}, {}, r"a\.npz: x_test, y_test: x row 2, column 1 holds nan"),
        ({**FOUR, "x_test": X}, {}, r"a\.npz: x_test, y_test: x has 12 rows and y has 4"),
        ({**FOUR, "x_train": X[:0], "y_train": LABELS[:0]}, {}, r"a\.npz: x_train, y_train: holds no examples"),
        (
            {**FOUR, "y_test": LABELS[:4] + 1},
            {},
            r"a\.npz: y_test: row 0 holds label 8, which no training example has$",
        ),
        ({**FOUR, "y_test": np.ones(4)}, {}, r"a\.npz: y_train and y_test must both be labels, or both be targets"),
        (
            {**FOUR, "x_train": X + 1j},
            {},
            r"a\.npz: x_train must be \[N, \.\.\.\] of numbers, got complex128 \[12, 2\]$",
        ),
        (
            {**FOUR, "x_train": np.float64(3)},
            {},
            r"a\.npz: x_train must be \[N, \.\.\.\] of numbers, got float64 \[\]$",
        ),
        ({**FOUR, "y_train": LABELS[:, None]}, {}, r"a\.npz: y_train must be \[N\] labels .*, got int64 \[12, 1\]$"),
        ({**FOUR, "y_train": X[:, None]}, {}, r"a\.npz: y_train must be .*, got float64 \[12, 1, 2\]$"),
        ({**FOUR, "y_train": LABELS + 1j}, {}, r"a\.npz: y_train must be .*, got complex128 \[12\]$"),
        ({**FOUR, "y_train": np.array([None] * 12)}, {}, r"^cannot read .*a\.npz \(Object arrays cannot be loaded"),
    ],
)
def test_npz_refuses(tmp_path, arrays, keys, message):
    path = npz(tmp_path, **arrays)
    refused(lambda: Npz(path, **keys).load(), message)


def test_npz_refuses_other_files(tmp_path):
    np.save(tmp_path / "a.npy", X)
    refused(Npz(str(tmp_path / "a.npy")).load, r"^cannot read .*a\.npy \(it is no \.npz file\)$")
    refused(Npz(str(tmp_path / "absent.npz")).load, r"^cannot read .*absent\.npz \(No such file or directory\)$")


def test_npz_with_a_flipped_bit_is_refused_or_reads_the_same(tmp_path):
    path = Path(npz(tmp_path, x=X, y=LABELS))
    whole, good = path.read_bytes(), read_npz(path)
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with suppress(InputError):
            read = read_npz(path)
            for name in read.keys() & good.keys():
                np.testing.assert_array_equal(read[name], good[name])


# --- Images ------------------------------------------------------------------------------------------------------


def images(folder: Path, **replaced: Image.Image) -> str:
    """Two classes of five images, 3 rows and 2 columns: dark.. are red and light.. white. `replaced`: dark_1=image."""
    for name, colour in (("dark", (255, 0, 0)), ("light", (255, 255, 255))):
        (folder / name).mkdir()
        for i in range(5):
            replaced.get(f"{name}_{i}", Image.new("RGB", (2, 3), colour)).save(folder / name / f"{i}.png")
    (folder / "dark" / ".hidden").write_text("not an image")
    (folder / "notes.txt").write_text("beside the classes")
    return str(folder)


def test_images_of_two_classes(tmp_path):
    splits = Images(images(tmp_path), test_fraction=0.4).load()
    x, y = everything(splits)
    assert splits.classes == ("dark", "light")
    assert (x.shape, x.dtype) == ((10, 3, 2, 3), np.float32)
    np.testing.assert_array_equal(x[y == 0], np.broadcast_to([1.0, 0, 0], (5, 3, 2, 3)))
    np.testing.assert_array_equal(x[y == 1], 1)


@pytest.mark.slow
def test_images_of_two_classes_are_told_apart_by_a_small_net(tmp_path):
    splits = Images(images(tmp_path), test_fraction=0.4).load()
    net = jaxbp.Chain(jaxbp.Conv(2, (2, 2)), jaxbp.Tanh(), jaxbp.Flatten(), jaxbp.Dense(2))
    batch = jaxbp.batch(splits.train.x, splits.train.y)
    gradient = jaxbp.value_and_grad(net, jaxbp.SoftmaxCrossEntropy())

    @jax.jit
    def outputs(x):
        step = lambda _, params: jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient(params, batch).grads)
        return net.forward(jax.lax.fori_loop(0, 20, step, net.init(jax.random.key(0), x)), x)[0]

    np.testing.assert_array_equal(outputs(splits.test.x).argmax(1), splits.test.y)


def test_images_in_grayscale(tmp_path):
    x, y = everything(Images(images(tmp_path), grayscale=True).load())
    assert x.shape == (10, 3, 2, 1)
    np.testing.assert_allclose(x[y == 0], 0.299, atol=0.003)
    np.testing.assert_array_equal(x[y == 1], 1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_images_of_other_kinds_become_colour(tmp_path, mode):
    x, y = everything(Images(images(tmp_path, light_0=Image.new("RGB", (2, 3), "white").convert(mode))).load())
    np.testing.assert_array_equal(x[y == 1], 1)


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"dark_3": Image.new("RGB", (5, 4))}, r"dark/3\.png: has 4 x 5 pixels, and .*dark/0\.png has 3 x 2; all must"),
        ({"light_1": Image.new("I;16", (2, 3))}, r"light/1\.png: has pixels of type I;16, and only 8 bits"),
    ],
)
def test_images_refuse(tmp_path, replaced, message):
    refused(Images(images(tmp_path, **replaced)).load, message)


def test_image_with_a_flipped_bit_is_refused_or_reads_the_same(tmp_path):
    file = tmp_path / "image.png"
    Image.fromarray(np.arange(18, dtype=np.uint8).reshape(3, 2, 3)).save(file)
    whole, good = file.read_bytes(), read_image(file, grayscale=False)
    for place, bit in product(range(len(whole)), range(8)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        with suppress(InputError):
            np.testing.assert_array_equal(read_image(file, grayscale=False), good)


def test_images_refuse_damaged_files_and_folders(tmp_path):
    refused(Images(str(tmp_path / "absent")).load, r"^cannot read .*absent \(No such file or directory\)$")
    config = Images(images(tmp_path))
    file = tmp_path / "light" / "4.png"
    whole = file.read_bytes()
    for content in (b"", b"text", whole[:50], whole[:20] + b"\xff" + whole[21:]):
        file.write_bytes(content)
        refused(config.load, r"^cannot read .*light/4\.png \(")
    for path in (tmp_path / "light").iterdir():
        path.unlink()
    refused(config.load, r"light: the folder is empty$")
    (tmp_path / "light").rmdir()
    refused(config.load, r"needs two subfolders or more, one per class, it has 1$")
