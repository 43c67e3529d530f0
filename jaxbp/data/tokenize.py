"""From files of text to files of token ids: a whole folder of them, or nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

import numpy as np

from jaxbp.data.outside import reading
from jaxbp.data.token_files import FORMS, LARGEST, FormName, TokenFile, header
from jaxbp.data.vocabulary import META, Meta, Vocabulary
from jaxbp.errors import InputError
from jaxbp.files import write_json

BLOCK = 2**24  # characters that are encoded at once, ids that are copied at once


@dataclass(frozen=True)
class Cut:
    """How the ids become files.

    test_fraction: of the ids, at the end, for test.bin; 0: no such file. form: None: llm.c, and llama-3 where uint16 is
    too small. shard: ids in a file of the training part; None: one file.
    """

    test_fraction: float = 0.1
    form: FormName | None = None
    shard: int | None = None

    def form_for(self, ids: int) -> FormName:
        """The form of files for so many different ids. Raises InputError where they are too many for it."""
        form = self.form or ("llm.c" if ids <= 2**16 else "llama-3")
        limit = 2 ** (8 * np.dtype(FORMS[form].dtype).itemsize)
        if ids > limit:
            raise InputError(f"the {form} form holds ids below {limit}, and the vocabulary has {ids}: take llama-3")
        return form

    def parts(self, count: int, form: FormName) -> Iterator[tuple[str, int, int]]:
        """(file name, its first id, the id after its last) of a text of `count` ids."""
        train = count - round(self.test_fraction * count)
        if train == 0:
            raise InputError(f"test_fraction={self.test_fraction} leaves none of the {count} ids to the training part")
        shard = self.shard or train
        if FORMS[form].magic is not None and max(min(shard, train), count - train) > LARGEST:
            raise InputError(f"a file of the {form} form holds at most {LARGEST:,} ids: set shard to fewer")
        starts = range(0, train, shard)
        for i, start in enumerate(starts):
            yield "train.bin" if self.shard is None else f"train_{i:03d}.bin", start, min(start + shard, train)
        if train < count:
            yield "test.bin", train, count


def tokenize(
    paths: Sequence[Path],
    out: Path,
    vocabulary: Vocabulary | None = None,
    cut: Cut = Cut(),
    multiple: int = 1,
    end: str | None = None,
) -> tuple[Meta, list[TokenFile]]:
    """Writes the new folder `out`; -> what its meta.json says, and its files.

    vocabulary: None: the characters of the text, sorted. Its size is rounded up to a multiple of `multiple`. end: a
    token that follows each file. Raises InputError for a text that cannot be read, is empty, or does not fit.
    """
    if not any(path.stat().st_size for path in paths):
        raise InputError("the text is empty")
    if vocabulary is None:
        characters: set[str] = set()
        for path in paths:
            for text in blocks(path, anywhere=True):
                characters.update(text)
        vocabulary = Vocabulary("characters", len(characters), "".join(sorted(characters)))
    vocabulary = vocabulary.padded(-(-vocabulary.used // multiple) * multiple)
    form = cut.form_for(vocabulary.size)
    last = end_id(vocabulary, end)
    dtype = np.dtype(FORMS[form].dtype)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".tokens-") as aside:
        ids = Path(aside) / "ids"
        total = write_ids(paths, ids, vocabulary, dtype, last)
        count = ids.stat().st_size // dtype.itemsize
        folder = Path(aside) / "done"
        folder.mkdir()
        parts = list(cut.parts(count, form))
        for name, first, stop in parts:
            with (folder / name).open("wb") as file:
                file.write(header(form, stop - first))
                for start in range(first, stop, BLOCK):
                    size = min(BLOCK, stop - start)
                    np.fromfile(ids, dtype, size, offset=start * dtype.itemsize).tofile(file)
        meta = Meta(vocabulary, count, total)
        write_json(folder / META, meta.to_json())
        folder.rename(out)
    return meta, [TokenFile.open(out / name) for name, _, _ in parts]


def end_id(vocabulary: Vocabulary, end: str | None) -> list[int]:
    """The id of the token that follows a file, in a list; an empty one for none."""
    if end is None:
        return []
    if vocabulary.kind != "tokenizer":
        raise InputError(f"end={end} is a token of a tokenizer.json, and these ids are {vocabulary.kind}")
    number = vocabulary.tokenizer.token_to_id(end)
    if number is None:
        raise InputError(f"the tokenizer has no token {end}")
    return [number]


def write_ids(paths: Sequence[Path], ids: Path, vocabulary: Vocabulary, dtype: np.dtype, last: list[int]) -> int:
    """Writes the ids of all files, one after the other; -> bytes of the text."""
    from tqdm import tqdm

    total = 0
    size = sum(path.stat().st_size for path in paths)
    with ids.open("wb") as file, tqdm(total=size, unit="B", unit_scale=True, disable=None) as bar:
        for path in paths:
            for text in blocks(path, anywhere=vocabulary.kind != "tokenizer"):
                encoded = vocabulary.encode(text)
                encoded.astype(dtype).tofile(file)
                total += len(text.encode())
                bar.update(len(text.encode()))
            np.array(last, dtype).tofile(file)
    return total


def blocks(path: Path, anywhere: bool) -> Iterator[str]:
    """The text of a file in blocks of at most 2 BLOCK characters.

    anywhere: they may end in a word. Else they end where a line does, between two words, or before a blank: there the
    tokenizers of GPT-2 and its kind end a token anyway. Raises InputError where a text has BLOCK characters without
    such a place.
    """
    rest = ""
    with reading(path) as content, TextIOWrapper(content, encoding="utf-8", newline="") as file:
        while text := file.read(BLOCK):
            rest += text
            cut = len(rest) if anywhere else line_end(rest) or blank(rest)
            if cut == 0 and len(rest) > BLOCK:
                raise InputError(
                    f"{path}: has {len(rest):,} characters without the end of a line, or a blank between two words, "
                    "where the text can be cut for a tokenizer"
                )
            yield rest[:cut]
            rest = rest[cut:]
    yield rest


def blank(text: str) -> int:
    """The place of the last blank between two words; 0 where there is none."""
    place = text.rfind(" ", 1, len(text) - 1)
    while place > 0 and (text[place - 1].isspace() or text[place + 1].isspace()):
        place = text.rfind(" ", 1, place)
    return max(place, 0)


def line_end(text: str) -> int:
    """The place after the last line break that has no space before or behind it; 0 where there is none."""
    place = text.rfind("\n", 0, len(text) - 1)
    while place > 0 and (text[place - 1].isspace() or text[place + 1].isspace()):
        place = text.rfind("\n", 0, place)
    return place + 1 if place > 0 else 0
