"""Seeded damage to a run folder: one thing each, as disks, editors and people do it."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path


def files(folder: Path) -> list[Path]:
    """The files of a run, pictures apart."""
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix != ".png")


def flip(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes()) or bytearray(1)
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def cut(file: Path, chance: random.Random) -> None:
    file.write_bytes(file.read_bytes()[: chance.randrange(max(file.stat().st_size, 1))])


def garbage(file: Path, chance: random.Random) -> None:
    file.write_bytes(chance.randbytes(chance.choice([1, 100, max(file.stat().st_size, 1)])))


def empty(file: Path, chance: random.Random) -> None:
    file.write_bytes(b"")


def missing(file: Path, chance: random.Random) -> None:
    file.unlink()


def folder_for_file(file: Path, chance: random.Random) -> None:
    file.unlink()
    file.mkdir()


def deep_json(file: Path, chance: random.Random) -> None:
    file.write_text("[" * 100_000 + "]" * 100_000)


def copy(source: Path, target: Path) -> None:
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)


def swap(one: Path, two: Path) -> None:
    aside = one.with_name("swapping")
    one.rename(aside)
    two.rename(one)
    aside.rename(two)


def two_files(folder: Path, other: Path, chance: random.Random) -> str:
    pair = chance.sample(files(folder), 2)
    swap(*pair)
    return " and ".join(str(file.relative_to(folder)) for file in pair)


def two_steps(folder: Path, other: Path, chance: random.Random) -> str:
    swap(*sorted(folder.glob("checkpoints/[0-9]*")))
    return "checkpoints"


def anothers_file(folder: Path, other: Path, chance: random.Random) -> str:
    shared = [file.relative_to(folder) for file in files(folder)]
    file = chance.choice([file for file in shared if (other / file).is_file()])
    shutil.copyfile(other / file, folder / file)
    return str(file)


def anothers_checkpoint(folder: Path, other: Path, chance: random.Random) -> str:
    path = chance.choice(sorted(folder.glob("checkpoints/[0-9]*"))).relative_to(folder)
    (shutil.rmtree if (folder / path).is_dir() else os.remove)(folder / path)
    copy(other / path, folder / path)
    return str(path)


def copied_checkpoint(folder: Path, other: Path, chance: random.Random) -> str:
    source = chance.choice(sorted([*folder.glob("checkpoints/[0-9]*"), *other.glob("checkpoints/[0-9]*")]))
    name = chance.choice(["0000000999", "9", "100", f"{source.name} (copy)", f"writing.{source.name}"])
    copy(source, folder / "checkpoints" / name)
    return name


def stray_file(folder: Path, other: Path, chance: random.Random) -> str:
    file = chance.choice(sorted(path for path in [folder, *folder.rglob("*")] if path.is_dir())) / ".DS_Store"
    file.write_bytes(chance.randbytes(50))
    return str(file.relative_to(folder))


def repeated_rows(folder: Path, other: Path, chance: random.Random) -> str:
    file = folder / chance.choice(["metrics.jsonl", "timing.jsonl"])
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([chance.choice(lines), *lines]))
    return file.name


ONE_FILE: dict[str, Callable[[Path, random.Random], None]] = {
    "a bit flipped": flip,
    "cut short": cut,
    "random bytes": garbage,
    "empty": empty,
    "missing": missing,
    "a folder in its place": folder_for_file,
    "deeply nested JSON": deep_json,
}
FOLDER: dict[str, Callable[[Path, Path, random.Random], str]] = {
    "two files swapped": two_files,
    "two checkpoints swapped": two_steps,
    "a file of another run": anothers_file,
    "a checkpoint of another run": anothers_checkpoint,
    "a checkpoint under another name": copied_checkpoint,
    "a stray file": stray_file,
    "rows repeated": repeated_rows,
}


def damage(folder: Path, other: Path, seed: int) -> tuple[str, str]:
    """Does the `seed`-th of endless things to a run folder; -> (its kind, where). `other` is another run."""
    chance = random.Random(seed)
    kinds = [*ONE_FILE, *ONE_FILE, *FOLDER]  # a file is damaged twice as often
    kind = kinds[seed % len(kinds)]
    if kind in FOLDER:
        return kind, FOLDER[kind](folder, other, chance)
    file = chance.choice(files(folder))
    ONE_FILE[kind](file, chance)
    return kind, str(file.relative_to(folder))
