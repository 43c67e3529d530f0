"""IDX files and MNIST: reading, every way a file can be wrong, and the download with mirrors that fail."""

from __future__ import annotations

import gzip
import hashlib
import struct
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxbp.data import Idx, Mnist, mnist
from jaxbp.data.idx import TYPES, read_idx
from jaxbp.errors import InputError

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(array: np.ndarray) -> bytes:
    """The bytes of an IDX file."""
    kind = {np.dtype(t).newbyteorder("="): number for number, t in TYPES.items()}[array.dtype]
    header = struct.pack(">HBB", 0, kind, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def small_mnist(train: int = 40, test: int = 20) -> dict[str, bytes]:
    """The four files, small, with images [N, 3, 2] that tell their row number, and as many of every digit."""
    files = {}
    for part, examples in (("train", train), ("t10k", test)):
        images = np.arange(examples * 6).reshape(examples, 3, 2) % 256
        files[f"{part}-images-idx3-ubyte"] = idx(images.astype(np.uint8))
        files[f"{part}-labels-idx1-ubyte"] = idx((np.arange(examples) % 10).astype(np.uint8))
    return files


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def zipped(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in files.items()}


# --- the format --------------------------------------------------------------------------------------------------

arrays = st.sampled_from(sorted(TYPES.values())).flatmap(
    lambda t: hnp.arrays(np.dtype(t).newbyteorder("="), hnp.array_shapes(min_dims=1, max_dims=4, max_side=5))
)


@settings(max_examples=60, deadline=None)
@given(array=arrays, compressed=st.booleans())
def test_idx_round_trip(tmp_path_factory, array, compressed):
    path = tmp_path_factory.getbasetemp() / "any-name"
    path.write_bytes(gzip.compress(idx(array), mtime=0) if compressed else idx(array))
    result = read_idx(path)
    assert result.dtype == array.dtype
    assert result.dtype.isnative
    np.testing.assert_array_equal(result, array)


WHOLE = idx(np.arange(6, dtype=np.uint8).reshape(1, 2, 3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds 0 bytes"),
        (WHOLE[:3], "holds 3 bytes"),
        (WHOLE[:10], "is truncated"),
        (WHOLE[:-1], r"is truncated: shape \(1, 2, 3\) of uint8 needs 22 bytes, the file has 21"),
        (WHOLE + b"\0", "has trailing bytes: .* needs 22 bytes, the file has 23"),
        (b"\x89PNG" + WHOLE, "begins with bytes 89 50 4e 47, which is no IDX file"),
        (b"\0\x01\x08\x01" + WHOLE, "begins with bytes 00 01 08 01, which is no IDX file"),
        (b"\0\0\x0a\x01" + WHOLE, "begins with bytes 00 00 0a 01, which is no IDX file"),
        (b"\0\0\x08\0" + WHOLE, "begins with bytes 00 00 08 00, which is no IDX file"),
        (gzip.compress(WHOLE, mtime=0)[:-9], "Compressed file ended"),
        (gzip.compress(WHOLE, mtime=0)[:10] + b"\xff" * 20, "invalid|Error -3"),
        (gzip.compress(WHOLE, mtime=0) + b"rubbish", "Not a gzipped file"),
    ],
)
def test_damaged_idx_file_is_refused(tmp_path, content, message):
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_idx_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"^cannot read .*/absent \(No such file or directory\)$"):
        read_idx(tmp_path / "absent")


# --- Idx ---------------------------------------------------------------------------------------------------------


def idx_config(folder: Path, files: dict[str, bytes], **keys) -> Idx:
    write(folder, files)
    return Idx(*(str(folder / name) for name in NAMES), **keys)


def test_idx_scales_bytes_and_numbers_the_labels_in_sorted_order(tmp_path):
    files = small_mnist()
    files[NAMES[1]] = idx((np.arange(40) % 4 * 10 - 20).astype(np.int16))
    files[NAMES[3]] = idx(np.full(20, 10, np.int32))
    splits = idx_config(tmp_path, files).load()
    assert splits.classes == ("-20", "-10", "0", "10")
    np.testing.assert_array_equal(splits.train.y[:5], [0, 1, 2, 3, 0])
    np.testing.assert_array_equal(splits.test.y, 3)
    np.testing.assert_allclose(splits.train.x[1], np.arange(6, 12) / 255, rtol=1e-6)


def test_idx_keeps_values_that_are_not_bytes(tmp_path):
    values = np.array([[300.5, -2.0]] * 20)
    files = small_mnist() | {NAMES[0]: idx(np.tile(values, (2, 1))), NAMES[2]: idx(values)}
    splits = idx_config(tmp_path, files).load()
    np.testing.assert_array_equal(splits.test.x, values)
    assert splits.test.x.dtype == np.float32


IMAGES, LABELS = np.zeros((40, 3, 2), np.uint8), np.zeros(40, np.uint8)
ONE_NAN = np.where(np.arange(40).reshape(20, 2) == 7, np.nan, 0)


@pytest.mark.parametrize(
    ("name", "array", "keys", "message"),
    [
        (NAMES[0], LABELS, {}, f"{NAMES[0]}: images must have 2 or 3 or 4 dimensions .*, this file has 1"),
        (NAMES[0], IMAGES[:, 0], {"image": True}, f"{NAMES[0]}: images must have 3 dimensions .*, this file has 2"),
        (NAMES[1], IMAGES, {}, f"{NAMES[1]}: labels must be integers in 1 dimension, this file has uint8 in 3"),
        (NAMES[1], LABELS.astype(np.float32), {}, f"{NAMES[1]}: labels must be integers .* has float32 in 1"),
        (NAMES[1], LABELS[:-1], {}, f"{NAMES[0]} holds 40 images and .*{NAMES[1]} holds 39 labels"),
        (
            NAMES[3],
            np.arange(20, dtype=np.uint8),
            {},
            f"{NAMES[3]}: row 10 holds label 10, which no training example has",
        ),
        (NAMES[2], ONE_NAN, {}, f"{NAMES[2]} .*: x row 3, column 1 holds nan"),
        (NAMES[2], np.zeros((20, 5, 5), np.uint8), {}, r"^test part: a row of x has shape \(25,\), in the train part"),
    ],
)
def test_idx_refuses_a_file_that_does_not_belong_there(tmp_path, name, array, keys, message):
    with pytest.raises(InputError, match=message):
        idx_config(tmp_path, small_mnist() | {name: idx(array)}, **keys).load()


# --- Mnist from a folder -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["-idx", ".idx"])
@pytest.mark.parametrize("compressed", [False, True])
def test_mnist_is_found_under_its_usual_names(tmp_path, spelling, compressed):
    files = {name.replace("-idx", spelling): content for name, content in small_mnist().items()}
    splits = Mnist(str(write(tmp_path, zipped(files) if compressed else files))).load()
    assert splits.classes == tuple("0123456789")
    assert (splits.train.x.shape, splits.train.x.dtype) == ((40, 6), np.float32)
    assert splits.train.x.max() == np.float32(239) / 255
    np.testing.assert_array_equal(splits.test.y, np.arange(20) % 10)


def test_mnist_keys_change_what_is_loaded(tmp_path):
    path = str(write(tmp_path, small_mnist()))
    plain = Mnist(path).load()
    image = Mnist(path, image=True).load()
    np.testing.assert_array_equal(image.train.x, plain.train.x.reshape(40, 3, 2, 1))
    one_hot = Mnist(path, one_hot=True).load()
    np.testing.assert_array_equal(one_hot.test.y, np.eye(10)[plain.test.y])
    validated = Mnist(path, validation_fraction=0.25).load()
    np.testing.assert_array_equal(np.bincount(validated.validation.y), 1)
    np.testing.assert_array_equal(np.bincount(validated.train.y), 3)
    few = Mnist(path, train_size=20).load()
    np.testing.assert_array_equal(np.bincount(few.train.y), 2)
    assert (few.train.x != Mnist(path, train_size=20, seed=1).load().train.x).any()
    assert len(few.test) == len(Mnist(path, train_size=40).load().test) == 20


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (NAMES[1], np.arange(40) // 3, f"{NAMES[1]}: y row 30 holds label 10, and labels must lie in 0..9"),
        (NAMES[0], np.zeros((0, 3, 2)), "holds 0 images"),
    ],
)
def test_mnist_refuses(tmp_path, name, array, message):
    write(tmp_path, small_mnist() | {name: idx(array.astype(np.uint8))})
    with pytest.raises(InputError, match=message):
        Mnist(str(tmp_path)).load()


def test_mnist_refuses_more_examples_than_there_are(tmp_path):
    with pytest.raises(InputError, match=r"^train_size=41 of 40 examples"):
        Mnist(str(write(tmp_path, small_mnist())), train_size=41).load()


def test_folder_without_mnist_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"^no train-images-idx3-ubyte or train-images-idx3-ubyte.gz in folder "):
        Mnist(str(tmp_path)).load()


# --- the download ------------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A folder that serves as a mirror of a small MNIST, whose sums are the right ones."""
    files = small_mnist()
    monkeypatch.setattr(mnist, "SHA256", {name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write(tmp_path / "mirror", zipped(files))


def mirror(folder: Path) -> str:
    return f"{folder.as_uri()}/"


def test_mnist_is_downloaded_once(source, tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "MIRRORS", (mirror(source),))
    first = Mnist().load()
    folder = tmp_path / "cache" / "jaxbp" / "mnist"
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    monkeypatch.setattr(mnist, "MIRRORS", ())
    np.testing.assert_array_equal(Mnist().load().train.x, first.train.x)


def test_cache_is_below_home_without_xdg(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert mnist.cache_folder() == tmp_path / ".cache" / "jaxbp" / "mnist"


DAMAGE = {
    "absent": None,
    "truncated": gzip.compress(small_mnist()[NAMES[0]], mtime=0)[:-9],
    "not gzip": b"<html>sign in to this network</html>",
    "other content": gzip.compress(small_mnist()[NAMES[2]], mtime=0),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_failing_mirror_falls_to_the_next(source, tmp_path, damage):
    bad = write(tmp_path / "bad", {} if DAMAGE[damage] is None else {f"{NAMES[0]}.gz": DAMAGE[damage]})
    folder = mnist.download(tmp_path / "got", (mirror(bad), mirror(source)))
    assert (folder / NAMES[0]).read_bytes() == small_mnist()[NAMES[0]]


@pytest.mark.parametrize("damage", DAMAGE)
def test_no_mirror_left_is_refused_and_nothing_is_kept(source, tmp_path, damage):
    bad = write(tmp_path / "bad", {} if DAMAGE[damage] is None else {f"{NAMES[0]}.gz": DAMAGE[damage]})
    message = rf"^cannot download {NAMES[0]} \(file:.*/bad/: .*; give path, a folder"
    with pytest.raises(InputError, match=message) as caught:
        mnist.download(tmp_path / "got", (mirror(bad),))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "got").exists()


def test_http_mirrors(source, tmp_path):
    """One server: below /absent/ it answers 404, at its root are the files."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=source)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}/"
        folder = mnist.download(tmp_path / "got", (f"{root}absent/", root))
        server.shutdown()
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)


def test_cache_that_cannot_be_written_is_refused(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^cannot write MNIST to the cache \(.*; give path, or set XDG_CACHE_HOME$"):
        mnist.download(tmp_path / "file" / "mnist", (mirror(source),))
