"""Damaged data files from a seed, and what reading them ends in.

    python -m tests.support.damaged_data COUNT      reads so many, seeds 0, 1, ..., and prints the table of the docs

A number is the seed of one damage of one file: bytes are flipped, cut off, repeated, filled with 0 or 255, sizes become
huge, one format stands under another's name. Half of the damages of a compressed file are inside the compression.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import random
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxbp.data import Csv, Idx, Images, Npz, Parquet, Splits, Text
from jaxbp.errors import InputError

ALLOWED = 2**26  # data.max_bytes of every reading
SECONDS = 10  # that a reading may take
NUMBERS = np.random.default_rng(0).integers(0, 256, (24, 4, 3)).astype(np.uint8)
LABELS = (np.arange(24) % 3).astype(np.uint8)
IDX_FILES = ("train_images", "train_labels", "test_images", "test_labels")


def idx(array: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def picture(kind: str, i: int) -> bytes:
    """An image file of 8 x 6 pixels."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 6, 3)).astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def archive(save: Callable[..., None]) -> bytes:
    """An .npz file."""
    buffer = io.BytesIO()
    save(buffer, x=NUMBERS.reshape(24, -1).astype(np.float32), y=LABELS.astype(np.int64), more=np.zeros(5))
    return buffer.getvalue()


@functools.cache
def whole() -> dict[str, tuple[dict[str, bytes], Callable[[Path], Splits]]]:
    """Format -> ({name: content of its files}, how a folder with them is read)."""
    table = "".join(f"{i * 5 % 24},{i * i / 7},{'red' if i % 2 else 'blue'},{'ab'[i % 3 > 0]}\n" for i in range(24))
    csv = f"long,wide,colour,kind\n{table}".encode()
    images = {"train_images": idx(NUMBERS), "train_labels": idx(LABELS)}
    images |= {"test_images": idx(NUMBERS[:6]), "test_labels": idx(LABELS[:6])}
    folder = lambda kind: {f"{'ab'[i % 2]}/{i}.{kind}": picture(kind, i) for i in range(8)}
    read_idx = lambda path: Idx(*(str(path / name) for name in IDX_FILES), max_bytes=ALLOWED).load()
    read_npz = lambda path: Npz(str(path / "a.npz"), test_fraction=0.25, max_bytes=ALLOWED).load()
    read_images = lambda path: Images(str(path), test_fraction=0.5, max_bytes=ALLOWED).load()
    formats = {
        "CSV": ({"a.csv": csv}, lambda path: Csv(str(path / "a.csv"), text="one_hot", max_bytes=ALLOWED).load()),
        "IDX": (images, read_idx),
        "IDX, gzipped": ({name: gzip.compress(content, mtime=0) for name, content in images.items()}, read_idx),
        "NPZ": ({"a.npz": archive(np.savez)}, read_npz),
        "NPZ, compressed": ({"a.npz": archive(np.savez_compressed)}, read_npz),
        "PNG": (folder("png"), read_images),
        "JPEG": (folder("jpeg"), read_images),
        "text": (
            {"a.txt": "Der Hahn kräht, the cock crows. ".encode() * 20},
            lambda path: Text(str(path / "a.txt"), length=8, max_bytes=ALLOWED).load(),
        ),
    }
    try:
        import pandas
    except ImportError:
        return formats
    frame = pandas.read_csv(io.BytesIO(csv))
    read_parquet = lambda path: Parquet(str(path / "a.parquet"), text="one_hot", max_bytes=ALLOWED).load()
    return formats | {"Parquet": ({"a.parquet": frame.to_parquet()}, read_parquet)}


def damage(content: bytes, draw: random.Random) -> bytes:
    """The content with one damage."""
    place = draw.randrange(len(content) + 1)
    length = draw.choice((1, 2, 4, 8, 64))
    after = content[place + length :]
    word = draw.choice((b"nan", b"1e400", b'"', b"\0", b"1_0", b"9" * 400, b"\xff\xfe", b",,", b"\n", "ß".encode()))
    noise = bytes(draw.randrange(256) for _ in range(length))
    return draw.choice(
        (
            content[:place],
            content[place:],
            content[:place] + noise + after,
            content[:place] + noise + content[place:],
            content[:place] + b"\0" * length + after,
            content[:place] + b"\xff" * length + after,
            content[:place] + b"\x7f" * length + after,
            content[:place] + content[place : place + length] * draw.choice((2, 1000)) + after,
            content[:place] + word + content[place:],
            re.sub(rb"\d+", lambda m: b"9" * 15 if draw.random() < 0.1 else m[0], content),
            b"",
            content + noise,
            content * 2,
            content[:4] + bytes(draw.randrange(256) for _ in range(200)),
        )
    )


def damaged_inside(content: bytes, draw: random.Random) -> bytes:
    """A compressed file whose damage is inside the compression, so that its checksums are right."""
    if content.startswith(b"\x1f\x8b"):
        return gzip.compress(damage(gzip.decompress(content), draw), mtime=0)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        chosen = draw.choice(old.namelist())
        for info in old.infolist():
            member = old.read(info)
            new.writestr(info, damage(member, draw) if info.filename == chosen else member)
    return buffer.getvalue()


def write_damaged(folder: Path, seed: int) -> str:
    """Writes the files of one format with one damage into a folder; -> the format."""
    draw = random.Random(seed)
    formats = whole()
    kind = list(formats)[seed % len(formats)]
    files = dict(formats[kind][0])
    name = draw.choice(list(files))
    if draw.random() < 0.05:  # another format under this name
        files[name] = draw.choice([content for others, _ in formats.values() for content in others.values()])
    elif files[name][:2] in (b"\x1f\x8b", b"PK") and draw.random() < 0.5:
        files[name] = damaged_inside(files[name], draw)
    else:
        files[name] = damage(files[name], draw)
    for path, content in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)
    return kind


def digest(splits: Splits) -> str:
    """sha256 of all arrays and classes."""
    arrays = [part.x for part in (splits.train, splits.test)] + [part.y for part in (splits.train, splits.test)]
    return hashlib.sha256(
        repr([(a.shape, a.dtype, a.tobytes()) for a in arrays] + [splits.classes]).encode()
    ).hexdigest()


class Hang(BaseException):
    """A reading took longer than SECONDS."""


def _hang(*_: Any) -> None:
    raise Hang


@contextmanager
def watched() -> Iterator[Callable[[], int]]:
    """Raises Hang after SECONDS. Yields what gives the most bytes of memory so far beyond those at the beginning."""
    old = signal.signal(signal.SIGALRM, _hang)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here (proc(5))
    before = peak()
    signal.alarm(SECONDS)
    try:
        yield lambda: peak() - before
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def peak() -> int:
    """The most bytes that this process had resident."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])


def outcome(folder: Path, seed: int) -> tuple[str, str, str, int]:
    """(format, "refused", "read as before", "read with other values" or a fault, the line, bytes of memory)."""
    kind = write_damaged(folder, seed)
    right = whole_digest(kind)
    with watched() as grown:
        try:
            result = "read as before" if digest(whole()[kind][1](folder)) == right else "read with other values"
            line = ""
        except InputError as error:
            result, line = "refused", str(error)
        except Hang:
            result, line = "hang", ""
        except Exception as error:
            result, line = "traceback", f"{type(error).__name__}: {error}"
        size = grown()
    if "\n" in line:
        result = "more than one line"
    return kind, "too much memory" if size > ALLOWED else result, line, size


@functools.cache
def whole_digest(kind: str) -> str:
    """The digest of the undamaged files of a format."""
    files, read = whole()[kind]
    with tempfile.TemporaryDirectory() as folder:
        for path, content in files.items():
            (Path(folder) / path).parent.mkdir(exist_ok=True)
            (Path(folder) / path).write_bytes(content)
        return digest(read(Path(folder)))


RESULTS = ("refused", "read as before", "read with other values")
FAULTS = ("traceback", "more than one line", "hang", "too much memory")


def outcomes(seeds: range) -> tuple[Counter, list[str], int, float]:
    """(how often each (format, result), the seeds and lines of faults, the most bytes, the most seconds)."""
    counts: Counter = Counter()
    faults = []
    most, longest = 0, 0.0
    for kind in whole():
        whole_digest(kind)  # imports what reading needs, before anything is measured
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            kind, result, line, size = outcome(Path(folder), seed)
            longest = max(longest, time.perf_counter() - start)
        most = max(most, size)
        counts[kind, result] += 1
        if result in FAULTS:
            faults.append(f"seed {seed}, {kind}: {result}, {line} ({size:,} bytes)")
    return counts, faults, most, longest


def main(count: int) -> int:
    """Prints the table of so many damages, and every fault; -> the number of faults."""
    resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))
    counts, faults, most, longest = outcomes(range(count))
    print("| format |", " | ".join((*RESULTS, "faults")), "|")
    print("|---" * (len(RESULTS) + 2) + "|")
    for kind in whole():
        shown = [counts[kind, result] for result in RESULTS] + [sum(counts[kind, fault] for fault in FAULTS)]
        print(f"| {kind} |", " | ".join(map(str, shown)), "|")
    print(*faults, f"most memory {most:,} bytes of {ALLOWED:,} allowed; longest {longest:.2f} s", sep="\n")
    return len(faults)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])) > 0)
