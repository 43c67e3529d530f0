"""Data beyond memory: the same batches from the disk and from the device, and one line for what does not fit."""

import os
import time
from concurrent.futures import wait
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxbp.config import Config, Run
from jaxbp.data import ArrayFiles, FromMap, HuggingFace, ImageFiles, Images
from jaxbp.errors import InputError
from jaxbp.losses import SoftmaxCrossEntropy, SquaredError
from jaxbp.models import MLP
from jaxbp.optim import Adam
from jaxbp.training.feeds import Ahead, StreamFeed, make_feeds
from jaxbp.training.loop import train
from jaxbp.training.run import fingerprint
from tests.support.runs import weights

DRAW = np.random.default_rng(0)
PIXELS = DRAW.integers(0, 256, (60, 4, 3)).astype(np.uint8)
LABELS = DRAW.integers(3, 6, 60)


def idx(array):
    kind = {"uint8": 8, "int32": 12, "float32": 13}[array.dtype.name]
    sizes = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, kind, array.ndim]) + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.fixture
def files(tmp_path):
    """The keys of the same arrays in NPY and in IDX files."""
    np.save(tmp_path / "x.npy", PIXELS)
    np.save(tmp_path / "y.npy", LABELS)
    (tmp_path / "x.idx").write_bytes(idx(PIXELS))
    (tmp_path / "y.idx").write_bytes(idx(LABELS.astype(np.int32)))
    return {kind: {"train_x": f"{tmp_path}/x.{kind}", "train_y": f"{tmp_path}/y.{kind}"} for kind in ("npy", "idx")}


@pytest.fixture
def folder(tmp_path):
    """Twelve images of two classes in folders."""
    for name, rows in (("cat", range(6)), ("dog", range(6, 12))):
        (tmp_path / "images" / name).mkdir(parents=True)
        for row in rows:
            Image.fromarray(PIXELS[row]).save(tmp_path / "images" / name / f"{row:02d}.png")
    return tmp_path / "images"


@dataclass(frozen=True)
class Listed(FromMap):
    """Pairs of numbers, the targets of a regression; `wrong` is the place of one that does not fit."""

    wrong: int = -1
    wait: float = 0.0

    def examples(self):
        return Pairs(self.wrong, self.wait)


@dataclass(frozen=True)
class Pairs:
    wrong: int
    wait: float

    def __len__(self):
        return 40

    def __getitem__(self, index):
        time.sleep(self.wait)
        return {"x": np.full(3 if index == self.wrong else 2, index, np.float32), "y": float(index)}


def both(data, **keys):
    """The data as they lie on the device, and as they are read in training."""
    return data.load().train, replace(data, max_bytes=1, **keys).load().train


@pytest.mark.parametrize("kind", ["npy", "idx"])
def test_rows_of_a_file_are_those_of_the_array(files, kind):
    splits = ArrayFiles(**files[kind], image=True, held_examples=10, validation_fraction=0.1).load()
    parts = [splits.test, splits.validation, splits.train.take(slice(None))]
    assert [len(part) for part in parts] == [6, 6, 48]
    rows = {(x.tobytes(), int(y)) for part in parts for x, y in zip(part.x, part.y, strict=True)}
    x = PIXELS.astype(np.float32)[..., None] / np.float32(255)
    assert rows == {(row.tobytes(), int(label) - 3) for row, label in zip(x, LABELS, strict=True)}
    assert splits.classes == ("3", "4", "5")
    np.testing.assert_array_equal(splits.preparation.apply(PIXELS), x)


def test_parts_of_their_own_and_a_regression(files, tmp_path):
    np.save(tmp_path / "targets.npy", LABELS / 7)
    keys = {"train_x": files["npy"]["train_x"], "train_y": f"{tmp_path}/targets.npy"}
    splits = ArrayFiles(**keys, test_x=files["idx"]["train_x"], test_y=f"{tmp_path}/targets.npy").load()
    assert splits.classes is None
    np.testing.assert_array_equal(splits.train.y[:], (LABELS / 7).astype(np.float32)[:, None])
    np.testing.assert_array_equal(splits.test.x, splits.train.take(slice(None)).x)
    assert splits.train.x.shape == (60, 12)


@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_from_the_disk_are_those_on_the_device(files, shuffle):
    """Every batch of three epochs, one of them ragged, however many steps are in a call."""
    resident, read = both(ArrayFiles(**files["idx"]))
    assert resident.fits
    assert not read.fits
    whole, start = make_feeds(resident, 5, shuffle, 7)(1, 4).call(0, 24)
    assert int(start) == 0
    for per_call in (1, 4, 100):
        feed = make_feeds(read, 5, shuffle, 7, 4)(1, 4)
        assert isinstance(feed, StreamFeed)
        assert feed.steps == whole.steps == 3 * 8
        for start in range(0, feed.steps, per_call):
            call, first = feed.call(start, per_call)
            assert (int(first), call.counting, whole.counting) == (0, None, None)
            for step in range(min(per_call, feed.steps - start)):
                np.testing.assert_array_equal(call.mask[step], whole.mask[start + step])
                ours, theirs = np.asarray(call.order[step]), np.asarray(whole.order[start + step])
                np.testing.assert_array_equal(np.asarray(call.x)[ours], np.asarray(whole.x)[theirs])
                np.testing.assert_array_equal(np.asarray(call.y)[ours], np.asarray(whole.y)[theirs])


@pytest.mark.slow
def test_a_run_from_the_disk_is_the_run_on_the_device(files, tmp_path):
    """Weights and metrics to the bit, with dropout, a ragged batch and early stopping."""
    data = ArrayFiles(**files["npy"], validation_fraction=0.2)
    run = Run(epochs=4, batch_size=9, steps_per_call=3, patience=3)
    config = Config(data, MLP(outputs=3, hidden=(5,), dropout=0.2), SoftmaxCrossEntropy(), Adam(), run)
    rows = [
        train(replace(config, data=data), tmp_path / name)
        for name, data in (("device", data), ("disk", replace(data, max_bytes=1)))
    ]
    assert rows[0] == rows[1]
    assert (tmp_path / "device/metrics.jsonl").read_bytes() == (tmp_path / "disk/metrics.jsonl").read_bytes()
    assert weights(tmp_path / "device") == weights(tmp_path / "disk")


@pytest.mark.slow
def test_a_large_file_takes_little_memory(tmp_path):
    """118 MB of bytes, 470 MB as they are prepared, in calls of 8 MB."""
    (tmp_path / "x.npy").write_bytes(npy_header((150_000, 784)))
    os.truncate(tmp_path / "x.npy", 128 + 150_000 * 784)  # zeros that take no disk
    np.save(tmp_path / "y.npy", np.arange(150_000) % 2)
    data = ArrayFiles(f"{tmp_path}/x.npy", f"{tmp_path}/y.npy", max_bytes=2**27, held_examples=1000)
    feed = make_feeds(data.load().train, 0, True, 250, 1)(0, 1)
    before = resident_bytes()
    most = 0
    for start in range(0, feed.steps, 10):
        feed.call(start, 10)
        most = max(most, resident_bytes() - before)
    assert most < 2**27


def npy_header(shape):
    """The first 128 bytes of an NPY file of unsigned bytes."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_slow_source_is_waited_for_and_a_fast_one_is_not():
    read = replace(Listed(wait=0.02), max_bytes=1).load().train
    feed = make_feeds(read, 0, True, 4)(0, 1)
    feed.call(0, 2)
    assert feed.late
    wait(feed.ahead.batches.values())  # the program would run here
    feed.call(2, 2)
    assert not feed.late


def test_batches_that_nobody_needs_are_not_made():
    ahead = Ahead()
    made = []
    ahead.take(made.append, range(2), range(2, 2))
    ahead.take(made.append, range(8, 9), range(9, 10))
    assert sorted(made)[:3] == [0, 1, 8]
    assert ahead.batches.keys() == {9}


def test_a_folder_of_images_is_read_as_it_is_in_memory(folder):
    splits = ImageFiles(str(folder), test_fraction=0.25).load()
    whole = Images(str(folder)).table()
    pixels = np.concatenate([splits.test.x, splits.train.take(slice(None)).x])
    ours = {(x.tobytes(), int(y)) for x, y in zip(pixels, [*splits.test.y, *splits.train.y[:]], strict=True)}
    x = whole.data.x.astype(np.float32) / np.float32(255)
    assert ours == {(row.tobytes(), int(label)) for row, label in zip(x, whole.data.y, strict=True)}
    assert splits.classes == ("cat", "dog")
    both_parts = ImageFiles(str(folder), test_path=str(folder), grayscale=True).load()
    assert both_parts.train.x.shape == (12, 4, 3, 1)


def test_a_map_of_numbers_to_examples_is_a_source():
    splits = Listed(test_fraction=0.2).load()
    seen = np.concatenate([splits.test.y, splits.train.y[:]]).ravel()
    assert sorted(seen.tolist()) == list(range(40))
    np.testing.assert_array_equal(splits.train.take(np.array([3])).x, splits.train.y[np.array([3])].repeat(2, 1))
    assert fingerprint(splits) != fingerprint(Listed(test_fraction=0.25).load())


def test_a_map_of_grain_is_a_source():
    grain = pytest.importorskip("grain", reason="pip install grain for this test")

    @dataclass(frozen=True)
    class OfGrain(FromMap):
        repeated: bool = False

        def examples(self):
            source = grain.MapDataset.source(PIXELS).map_with_index(lambda i, x: {"x": x, "y": i % 3})
            return source.repeat() if self.repeated else source

    splits = OfGrain(class_count=3, max_bytes=1).load()
    batch = splits.train.take(np.arange(9))
    for x, y in zip(batch.x, batch.y, strict=True):
        place = np.flatnonzero((np.rint(x * 255) == PIXELS).all((1, 2)))[0]
        assert y == place % 3
    with pytest.raises(InputError, match="a run repeats them by itself"):
        OfGrain(repeated=True).load()


def test_columns_of_a_hugging_face_data_set_are_a_source(tmp_path):
    library = pytest.importorskip("datasets", reason="pip install datasets for this test")
    features = library.Features({"pixels": library.Image(), "kind": library.ClassLabel(names=["cat", "dog"])})
    rows = {"pixels": [Image.fromarray(array) for array in PIXELS], "kind": LABELS % 2}
    whole = library.Dataset.from_dict(rows, features=features)
    library.DatasetDict({"train": whole, "dev": whole.select(range(5))}).save_to_disk(tmp_path / "set")
    data = HuggingFace(str(tmp_path / "set"), x="pixels", y="kind", test="dev")
    splits = data.load()
    assert splits.classes == ("cat", "dog")
    np.testing.assert_array_equal(splits.test.x, PIXELS[:5].astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(splits.train.y[:], LABELS % 2)
    for keys, line in (
        ({"test": "tset"}, "unknown part of .* 'tset'"),
        ({"x": "pixel"}, "unknown column of .* 'pixel'; did you mean 'pixels'"),
        ({"path": str(tmp_path / "nothing")}, "datasets cannot load"),
    ):
        with pytest.raises(InputError, match=line):
            replace(data, **keys).load()


def npy(array, **keys):
    return lambda path: np.save(path, array, **keys)


@pytest.mark.parametrize(
    ("write", "line"),
    [
        (npy(PIXELS[:59]), "holds 59 rows and .* holds 60"),
        (npy(PIXELS.astype(object)), "holds object of shape"),
        (npy(np.asfortranarray(PIXELS)), r"is stored by columns \(fortran_order\)"),
        (npy(PIXELS[0, 0, 0]), r"of shape \(\), and must be an array"),
        (lambda path: path.write_bytes(idx(PIXELS)[:-1]), "is truncated: shape .* needs 736 bytes, the file has 735"),
        (lambda path: path.write_bytes(idx(PIXELS) + b"\0"), "has trailing bytes"),
        (lambda path: path.write_bytes(b"\x1f\x8b\x08"), "is compressed"),
        (lambda path: path.write_bytes(b"nothing of the kind"), "is no IDX file"),
        (lambda path: path.mkdir(), "is a folder, and must be a file"),
        (lambda path: None, "No such file"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(files, tmp_path, write, line):
    path = tmp_path / "other.npy"
    write(path)
    with pytest.raises(InputError, match=line) as error:
        ArrayFiles(**files["npy"] | {"train_x": str(path)}).load()
    assert "\n" not in str(error.value)


def test_what_is_wrong_with_a_row_is_said_when_it_is_read(files, folder, tmp_path):
    values = np.ones((60, 2), np.float32)
    values[17, 1] = np.nan
    np.save(tmp_path / "nan.npy", values)
    splits = ArrayFiles(**files["npy"] | {"train_x": f"{tmp_path}/nan.npy"}, held_examples=1, max_bytes=1).load()
    with pytest.raises(InputError, match=r"nan\.npy: row 17 holds a value that is not finite"):
        splits.train.take(slice(None))
    feed = make_feeds(splits.train, 0, False, 59)(0, 1)
    with pytest.raises(InputError, match="row 17"):  # a thread met it
        feed.call(0, 1)
    whole = ArrayFiles(**files["npy"], max_bytes=1).load().train
    os.truncate(files["npy"]["train_x"], 300)
    with pytest.raises(InputError, match="has become shorter since it was opened"):
        whole.take(slice(None))
    (folder / "cat/02.png").write_bytes((folder / "cat/02.png").read_bytes()[:45])
    Image.fromarray(PIXELS[:, 0]).save(folder / "dog/07.png")
    for rows, name in ((range(6), r"cat/02\.png"), (range(6, 12), r"dog/07\.png: has 60 x 3 pixels, and .* has 4 x 3")):
        source = ImageFiles(str(folder)).source()[0]
        with pytest.raises(InputError, match=name):
            source.read(np.array(rows))
    with pytest.raises(InputError, match=r"example 31: x is float32 \[3\], and in example 0 it is float32 \[2\]"):
        Listed(wrong=31).load().train.take(slice(None))
    with pytest.raises(InputError, match=r"example \d+: y must be a class in 0\.\.2, got"):
        Listed(class_count=3).load()


def test_keys_that_do_not_go_together_are_one_line(files, tmp_path):
    with pytest.raises(InputError, match="test_x and test_y go together"):
        ArrayFiles(**files["npy"], test_x="x.npy")
    np.save(tmp_path / "flat.npy", PIXELS.reshape(60, 12))
    with pytest.raises(InputError, match="images must have 3 or 4 dimensions"):
        ArrayFiles(**files["npy"] | {"train_x": f"{tmp_path}/flat.npy"}, image=True).load()
    with pytest.raises(InputError, match="60 examples leave a part without any"):
        ArrayFiles(**files["npy"], test_fraction=0.9, validation_fraction=0.2).load()
    config = Config(Listed(max_bytes=1), MLP(outputs=1), SquaredError(), Adam(), Run(2, 4, steps_per_call=10**12))
    with pytest.raises(InputError, match=r"run.steps_per_call=1000000000000: the batches of 3 calls take"):
        train(config, tmp_path / "run")


def test_each_key_changes_what_is_read(files):
    data = ArrayFiles(**files["npy"], validation_fraction=0.2, image=True)
    other = {"test_fraction": 0.2, "validation_fraction": 0.3, "held_examples": 5, "seed": 1, "image": False}
    other |= {"train_x": files["idx"]["train_x"], "test_x": files["npy"]["train_x"], "test_y": files["npy"]["train_y"]}
    print_of = lambda **keys: fingerprint(replace(data, **keys).load())
    assert print_of() == print_of()
    beside = {"test_x": {"test_y": other["test_y"]}, "test_y": {"test_x": other["test_x"]}}
    assert print_of() not in [print_of(**{key: value} | beside.get(key, {})) for key, value in other.items()]
