"""Files from outside: damaged ones, bombs, endless ones; what runs code, and what is refused before it is read."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxbp.data import Csv, FromFiles, Idx, Images, Mnist, Npz, Parquet, Text, Tokens
from jaxbp.data.images import read_image
from jaxbp.data.npy import read_npy
from jaxbp.data.outside import PREPARED, Allowance
from jaxbp.data.vocabulary import Meta
from jaxbp.errors import InputError
from jaxbp.models.gpt2 import SIZES, load_gpt2
from jaxbp.parameters import load_parameters
from tests.support.bombs import BOMBS, READ, X, Y, archive, header, npy, png
from tests.support.damaged_data import ALLOWED, IDX_FILES, digest, idx, outcomes, watched, whole, whole_digest


def refused(load, message: str = ".") -> str:
    with pytest.raises(InputError, match=message) as caught:
        load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def read_damaged(seeds: range) -> None:
    counts, faults, *_ = outcomes(seeds)
    assert not faults, "\n".join(faults)
    assert counts.total() == len(seeds)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Pillow's of what it meets in damaged files
def test_damaged_files_are_refused_in_one_line_or_read():
    read_damaged(range(90))


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_five_hundred_damaged_files():
    read_damaged(range(500))


# --- memory ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_takes_no_more_memory_than_is_allowed(tmp_path, name):
    if name.startswith("Parquet"):
        pytest.importorskip("pyarrow")
    data = BOMBS[name](tmp_path, 2**27)
    if isinstance(data, FromFiles):  # files of tokens are never held in memory
        data = dataclasses.replace(data, max_bytes=ALLOWED)
    with watched() as grown:
        if name in READ:
            data.load()
        else:
            refused(data.load)
        assert grown() < ALLOWED


@pytest.mark.parametrize("delimiter", [",", " ", "auto"])
def test_a_line_of_delimiters_is_refused_before_it_is_cut(tmp_path, delimiter):
    """Those in quotes count too: a line of 64 MiB of them took eleven seconds."""
    (tmp_path / "a.csv").write_text('a,b\n"' + ", " * 4_000_001 + '",1\n')
    refused(
        Csv(str(tmp_path / "a.csv"), delimiter=delimiter).load, "line 2: has 4,000,00. delimiters, and a table at most"
    )


def test_what_a_file_claims_is_said_with_what_is_allowed(tmp_path):
    (tmp_path / "a.npz").write_bytes(archive(x=npy(X.repeat(100, 0)), y=npy(Y.repeat(100))))
    data = Npz(str(tmp_path / "a.npz"), test_fraction=0.25, max_bytes=10_000)
    assert refused(data.load).endswith(
        f"a.npz, array x: it claims shape (2400, 12) of uint8; to read that takes {28_800 * (1 + PREPARED):,} bytes of "
        "memory, and 10,000 are allowed (a larger data.max_bytes allows more)"
    )
    dataclasses.replace(data, max_bytes=2**20).load()


def test_the_files_of_one_data_set_share_what_is_allowed(tmp_path):
    for name, content in whole()["IDX"][0].items():
        (tmp_path / name).write_bytes(content)
    data = Idx(*(str(tmp_path / name) for name in IDX_FILES))
    needed = (1 + PREPARED) * (24 * 12 + 24 + 6 * 12 + 6)
    dataclasses.replace(data, max_bytes=needed).load()
    refused(dataclasses.replace(data, max_bytes=needed - 1).load, r"test_labels: it claims shape \(6,\) of uint8; ")


def a_table(path: Path) -> str:
    rows = np.random.default_rng(0).normal(size=(4000, 20))
    lines = [f"{','.join(f'{value:.6f}' for value in row)},{'ab'[i % 2]}\n" for i, row in enumerate(rows)]
    path.write_text(f"{','.join(f'c{i}' for i in range(20))},kind\n{''.join(lines)}")
    return str(path)


def a_large_file(kind: str, folder: Path):
    """A data set whose reading takes tens of megabytes, with what makes most copies."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (3000, 28, 28)).astype(np.uint8)
    labels = (np.arange(3000) % 10).astype(np.uint8)
    keys = {"scaling": "standard", "validation_fraction": 0.2}
    if kind == "CSV":
        return Csv(a_table(folder / "a.csv"), missing="mean", **keys)
    if kind == "Parquet":
        pandas = pytest.importorskip("pandas")
        pandas.read_csv(a_table(folder / "a.csv")).to_parquet(folder / "a.parquet")
        return Parquet(str(folder / "a.parquet"), missing="mean", **keys)
    if kind == "text":
        (folder / "a.txt").write_text("the cock crows, der Hahn kräht. " * 20_000)
        return Text(str(folder / "a.txt"))
    if kind == "IDX":
        for name in IDX_FILES:
            (folder / name).write_bytes(idx(images if "images" in name else labels))
        return Idx(*(str(folder / name) for name in IDX_FILES), **keys)
    if kind == "PNG":
        for i in range(12):
            (folder / "ab"[i % 2]).mkdir(exist_ok=True)
            pixels = draw.integers(0, 256, (300, 300, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "ab"[i % 2] / f"{i}.png")
        return Images(str(folder), test_fraction=0.25, scaling="standard")
    np.savez(folder / "a.npz", x=images.reshape(3000, -1).astype(kind), y=labels)
    return Npz(str(folder / "a.npz"), test_fraction=0.2, **keys)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["CSV", "Parquet", "text", "IDX", "PNG", "uint8", "float32", "float64"])
def test_a_reader_takes_no_more_memory_than_it_asks_for(tmp_path, kind, monkeypatch):
    """The readers' bytes a value are no guesses: with exactly what they ask for, they do not take more."""
    for name in whole():
        whole_digest(name)  # imports what reading needs
    asked = []
    check = Allowance.check

    def checked(self, path, needed, why):
        check(self, path, needed, why)
        asked.append(self.taken + needed)

    monkeypatch.setattr(Allowance, "check", checked)
    data = a_large_file(kind, tmp_path)
    with watched() as grown:
        data.load()
        assert grown() < max(asked)
    dataclasses.replace(data, max_bytes=max(asked)).load()
    refused(dataclasses.replace(data, max_bytes=max(asked) - 1).load, " bytes of memory, and ")


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["~nosuchuser/x", "a\0b", ".", "/dev/null", "x" * 300, "\ud800"], ids=repr)
@pytest.mark.parametrize("kind", [Csv, Images, Mnist, Npz, Text, Tokens, lambda path: Idx(*[path] * 4)])
def test_paths_that_name_no_file(path, kind):
    refused(kind(path).load)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (b"{", "the magic string is not correct|EOF"),
        (b"\x93NUMPY\1\0\4\0{   ", "."),
        (header("(18446744073709551616, 4)"), "is truncated: claims shape"),
        (header("(True, 4)") + bytes(4), r"claims shape \(True, 4\), and sizes are whole numbers from 0"),
        (header("(-1, 4)"), r"claims shape \(-1, 4\)"),
        (header("(24, 0)"), r"a row of x has shape \(0,\), which holds no values"),
        (header("(" * 90 + ")" * 90), "."),
        (header("(24, 4)").replace(b"|u1", b"|O8"), "Object arrays cannot be loaded"),
        (header("(24, 4)").replace(b"NUMPY\1", b"NUMPY\3"), "is in version 3.0 of NumPy's format"),
        (npy(X) + b"more", "array x: has trailing bytes"),
        (npy(X)[:-1], "array x: is truncated"),
    ],
)
def test_malformed_members(tmp_path, x, message):
    (tmp_path / "a.npz").write_bytes(archive(x=x, y=npy(Y)))
    refused(Npz(str(tmp_path / "a.npz"), test_fraction=0.25).load, message)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_compression_of_every_method(tmp_path, method):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("x.npy", npy(X))
        file.writestr("y.npy", npy(Y))
    content = buffer.getvalue()
    (tmp_path / "a.npz").write_bytes(content)
    data = Npz(str(tmp_path / "a.npz"), test_fraction=0.25)
    good = digest(data.load())
    for place in range(40, 140, 9):
        (tmp_path / "a.npz").write_bytes(content[:place] + b"\xff\x00\xff" + content[place + 3 :])
        with suppress(InputError):
            assert digest(data.load()) == good


def test_pixels_of_sixteen_bits_are_no_bytes(tmp_path):
    """Pillow would cut the lower eight off."""
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(2):
            (tmp_path / name / f"{i}.png").write_bytes(png(2, 2, 16, 2, bytes(26)))
    refused(Images(str(tmp_path)).load, r"has pixels of type RGB;16B, and only 8 bits a channel are allowed")
    (tmp_path / "a/0.png").write_bytes(b"P6 2 2 65535\n" + bytes(24))
    refused(Images(str(tmp_path)).load, r"has pixels of type 0\.\.65535, and only 8 bits a channel are allowed")
    (tmp_path / "a/0.png").write_bytes(b"P6 2 2 15\n" + bytes(12))
    assert read_image(tmp_path / "a/0.png", grayscale=False).shape == (2, 2, 3)


def test_large_whole_numbers_are_two_labels(tmp_path):
    labels = (2**53, 2**53 + 1)
    (tmp_path / "a.csv").write_text("x,y\n" + "".join(f"{i * i},{labels[i % 2]}\n" for i in range(8)))
    names = ("9007199254740992", "9007199254740993")
    assert Csv(str(tmp_path / "a.csv")).load().classes == names
    np.savez(tmp_path / "a.npz", x=X, y=np.array(labels)[np.arange(24) % 2])
    assert Npz(str(tmp_path / "a.npz"), test_fraction=0.25).load().classes == names


def test_a_line_has_no_control_characters_and_an_end():
    error = InputError("cell '\x1b[2J\x07\u202e" + "9" * 100_000 + "' is bad")
    assert str(error).isprintable()
    assert str(error).startswith(r"cell '\x1b[2J\x07\u202e99")
    assert str(error).endswith("99' is bad")
    assert len(str(error)) < 2100


# --- nothing executes --------------------------------------------------------------------------------------------


class Planted:
    """Pickled so that who unpickles it makes the folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.mkdir, (self.path,)


@pytest.mark.parametrize("where", ["x", "y", "x of objects"])
def test_a_pickle_in_a_data_file_is_not_read(tmp_path, where):
    trap = tmp_path / "trap"
    stored = pickle.dumps(Planted(trap))
    if where == "x of objects":
        array = np.empty(24, object)
        array[:] = [Planted(trap)] * 24
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        stored = buffer.getvalue()
    files = {"x": npy(X), "y": npy(Y)} | {where[0]: stored}
    (tmp_path / "a.npz").write_bytes(archive(**files))
    refused(Npz(str(tmp_path / "a.npz"), test_fraction=0.25).load)
    (tmp_path / "a.npy").write_bytes(stored)
    refused(lambda: read_npy(tmp_path / "a.npy"))
    assert not trap.exists()
    pickle.loads(pickle.dumps(Planted(trap)))
    assert trap.exists()


def test_members_of_an_archive_go_nowhere(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    with zipfile.ZipFile(inside / "a.npz", "w") as file:
        for name in ("../out", str(tmp_path / "absolute"), "x", "y", "../../x"):
            file.writestr(f"{name}.npy", npy(Y if name == "y" else X))
    Npz(str(inside / "a.npz"), test_fraction=0.25).load()
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "a.npz"]


def test_an_image_that_is_a_program_is_not_run(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "1.png", "eps")
    refused(Images(str(tmp_path)).load, "cannot identify image file")


@pytest.mark.parametrize(
    "content", [pickle.dumps(print), b"\xff" * 8 + b"{}", b"\2\0\0\0\0\0\0\0{}x", b"", b"\0" * 100]
)
def test_parameters_of_another_kind_are_not_read(tmp_path, content):
    pytest.importorskip("safetensors")
    (tmp_path / "a.safetensors").write_bytes(content)
    refused(lambda: load_parameters(tmp_path / "a.safetensors", {"w": np.zeros(2, np.float32)}))


def test_weights_that_the_memory_does_not_hold_are_not_read(tmp_path, monkeypatch):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    like = {"w": np.zeros(1000, np.float32)}
    save_file(like, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(dict.fromkeys(SIZES.values(), 4)))
    monkeypatch.setattr("jaxbp.data.outside.memory", lambda: 20_000)
    for read in (lambda: load_parameters(tmp_path / "model.safetensors", like), lambda: load_gpt2(tmp_path)):
        refused(
            read, r"model\.safetensors: the file has 4,0\d\d bytes; to read that takes 12,\d\d\d bytes of memory, and "
        )
    (tmp_path / "config.json").write_text(" " * 20_000)
    refused(
        lambda: load_gpt2(tmp_path),
        r"config\.json: the file has 20,000 bytes; to read that takes 20,000 bytes of memory",
    )
    (tmp_path / "meta.json").write_text(" " * 20_000)
    refused(lambda: Meta.read(tmp_path), r"meta\.json: the file has 20,000 bytes")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_pipe_in_the_place_of_weights_is_refused(tmp_path, name):
    pytest.importorskip("safetensors")
    (tmp_path / "config.json").write_text(json.dumps(dict.fromkeys(SIZES.values(), 4)))
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    refused(lambda: load_gpt2(tmp_path), "is a pipe or a device, and must be a file")


def test_what_stands_beside_parameters_is_only_text(tmp_path):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    trap = tmp_path / "trap"
    like = {"w": np.zeros(2, np.float32)}
    save_file(like, tmp_path / "a", {"__class__": "os.system", "code": f"open({str(trap)!r}, 'w')"})
    load_parameters(tmp_path / "a", like)
    save_file({"../../w": like["w"]}, tmp_path / "a")
    refused(lambda: load_parameters(tmp_path / "a", like), r"^unknown parameter in .* '\.\./\.\./w'")
    assert not trap.exists()
