"""Small files that would take much memory to read, and files without an end.

python -m tests.support.bombs       prints the table of the docs: of each the most memory, at the default allowance
"""

from __future__ import annotations

import gzip
import io
import os
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxbp.data import Csv, Idx, Images, Npz, Parquet, Text, Tokens
from jaxbp.errors import InputError
from tests.support.damaged_data import NUMBERS, idx, peak

Y = np.arange(24) % 3
X = NUMBERS.reshape(24, -1)


def zeros(head: bytes, count: int) -> bytes:
    """A gzipped file: so many zeros after its head."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1, mtime=0) as file:
        file.write(head)
        for _ in range(count // 2**20):
            file.write(bytes(2**20))
    return buffer.getvalue()


def archive(**members: bytes) -> bytes:
    """An .npz file of such members; each number stands for so many zeros."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, content in members.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                for part in content if isinstance(content, tuple) else (content,):
                    member.write(part)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    """A .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header(shape: str) -> bytes:
    """The header of a .npy file of bytes of this shape."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode()


def many(size: int) -> tuple[bytes, ...]:
    """A .npy file of `size` zeros in parts."""
    return header(f"({size // 4}, 4)"), *[bytes(2**20)] * (size // 2**20)


def png(width: int, height: int, bits: int, kind: int, rows: bytes) -> bytes:
    """A PNG of so many bits a channel and a kind of colour (2: RGB, 0: grey) with these rows, filter bytes and all."""
    chunk = lambda name, body: struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    facts = struct.pack(">2I5B", width, height, bits, kind, 0, 0, 0)
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", facts), chunk(b"IDAT", zlib.compress(rows, 1)), chunk(b"IEND", b""))
    )


def _idx(folder: Path, images: bytes) -> Idx:
    (folder / "images").write_bytes(images)
    (folder / "labels").write_bytes(idx(Y.astype(np.uint8)))
    names = ("images", "labels") * 2
    return Idx(*(str(folder / name) for name in names))


def _npz(folder: Path, content: bytes) -> Npz:
    (folder / "a.npz").write_bytes(content)
    return Npz(str(folder / "a.npz"), test_fraction=0.25)


def _images(folder: Path, side: int) -> Images:
    for name in "ab":
        (folder / name).mkdir()
        (folder / name / "1.png").write_bytes(png(side, side, 1, 0, bytes(side * (1 + -(-side // 8)))))
    return Images(str(folder), grayscale=True, test_fraction=0.5)


def _sparse(folder: Path, size: int) -> str:
    with (folder / "sparse").open("wb") as file:
        file.truncate(size)
    return str(folder / "sparse")


def _table(folder: Path, content: bytes) -> Csv:
    (folder / "a.csv").write_bytes(content)
    return Csv(str(folder / "a.csv"))


def _parquet(folder: Path, rows: int) -> Parquet:
    import pyarrow
    from pyarrow import parquet

    columns = {name: np.zeros(rows, np.int8) for name in "ab"}
    parquet.write_table(pyarrow.table(columns), folder / "a.parquet")
    return Parquet(str(folder / "a.parquet"))


def _pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe")
    return str(folder / "pipe")


BOMBS: dict[str, Callable[[Path, int], object]] = {  # name: (folder, bytes that it unpacks to) -> the data set
    "IDX, gzip of zeros": lambda folder, size: _idx(folder, zeros(struct.pack(">HBB2I", 0, 8, 2, size // 4, 4), size)),
    "IDX, gzip that goes on": lambda folder, size: _idx(folder, zeros(idx(NUMBERS), size)),
    "IDX that claims 2^96 bytes": lambda folder, _: _idx(folder, struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3)),
    "IDX that claims (0, 2^32-1, 2^32-1)": lambda folder, _: _idx(
        folder, struct.pack(">HBB3I", 0, 8, 3, 0, *[2**32 - 1] * 2)
    ),
    "NPZ of zeros": lambda folder, size: _npz(folder, archive(x=many(size), y=npy(Y))),
    "NPZ that claims 10^12 rows": lambda folder, _: _npz(folder, archive(x=header("(10**12, 4)"), y=npy(Y))),
    "NPZ that claims 1000000000000 rows": lambda folder, _: _npz(
        folder, archive(x=header("(1000000000000, 4)"), y=npy(Y))
    ),
    "NPZ with another array of zeros": lambda folder, size: _npz(
        folder, archive(x=npy(X), y=npy(Y), more=many(size), again=many(size))
    ),
    "PNG of 10,000 x 10,000": lambda folder, _: _images(folder, 10_000),
    "PNG of 20,000 x 20,000": lambda folder, _: _images(folder, 20_000),
    "CSV, sparse": lambda folder, size: Csv(_sparse(folder, size)),
    "CSV, one line of commas": lambda folder, size: _table(folder, b"," * (size // 2**4)),
    "Parquet of zeros": lambda folder, size: _parquet(folder, size // 2**4),
    "text, sparse": lambda folder, size: Text(_sparse(folder, size)),
    "text, sparse, size=10000": lambda folder, size: Text(_sparse(folder, size), size=10_000),
    "text, /dev/zero": lambda *_: Text("/dev/zero", size=10_000),
    "CSV, /dev/zero": lambda *_: Csv("/dev/zero"),
    "IDX, /dev/zero": lambda *_: Idx(*["/dev/zero"] * 4),
    "tokens, a pipe": lambda folder, _: Tokens(_pipe(folder)),
    "CSV, a pipe": lambda folder, _: Csv(_pipe(folder)),
    "NPZ, a pipe": lambda folder, _: Npz(_pipe(folder)),
    "text, a pipe": lambda folder, _: Text(_pipe(folder)),
}
READ = {"NPZ with another array of zeros", "text, sparse, size=10000"}  # the others are refused


def main(names: list[str]) -> None:
    """A line of the table for each bomb of 1 GiB; with a name, what this one does to this process."""
    if not names:
        print("| file | size | most memory | seconds | ends in |\n|---|---|---|---|---|")
        for name in BOMBS:
            words = [sys.executable, "-W", "ignore", "-m", "tests.support.bombs", name]
            try:
                done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
            except subprocess.TimeoutExpired:
                print(f"| {name} | | | more than 60 | |", flush=True)
                continue
            print(done.stdout.strip() or f"| {name} | | | | exit status {done.returncode} |", flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        data = BOMBS[names[0]](Path(folder), 2**30)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        Path("/proc/self/clear_refs").write_text("5")
        before, start = peak(), time.perf_counter()
        try:
            data.load()
            end = "is read"
        except (InputError, MemoryError) as error:
            end = f"{type(error).__name__}: {error}".replace(folder, "")
        seconds = time.perf_counter() - start
        print(
            f"| {names[0]} | {size / 2**20:,.2f} MiB | {(peak() - before) / 2**20:,.0f} MiB | {seconds:.2f} | {end} |"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
