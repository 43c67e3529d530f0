"""What token ids stand for: bytes, characters, or the tokens of a Hugging Face tokenizer.json."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxbp.data.outside import Allowance, reading
from jaxbp.errors import InputError
from jaxbp.typed import Count, Typed

MOST = 2**24  # ids of a vocabulary, each of which has a name in memory
META = "meta.json"  # beside the files of ids


@dataclass(frozen=True)
class Vocabulary(Typed):
    """Text to ids and back. It is plain data, so that a file and a run folder can hold it.

    Args:
        kind: what an id stands for
        size: number of ids, those included that only fill up to a multiple
        content: the characters in the order of their ids, or the text of a tokenizer.json; empty for bytes
    """

    kind: Literal["bytes", "characters", "tokenizer"]
    size: Count
    content: str = ""

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizers.Tokenizer of the content. Raises InputError where it is none, or the package is missing."""
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise InputError("a tokenizer.json needs tokenizers: pip install 'jaxbp[tokens]'") from error
        try:
            tokenizer = Tokenizer.from_str(self.content)
        except Exception as error:  # the package raises nothing narrower
            raise InputError(f"this is no tokenizer.json ({error})") from error
        tokenizer.no_truncation()  # those of models have a length here, at which the rest of the text would be lost
        tokenizer.no_padding()
        return tokenizer

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Character -> id."""
        return {character: i for i, character in enumerate(self.content)}

    @property
    def used(self) -> int:
        """Ids that stand for something; those after them only fill up."""
        if self.kind == "bytes":
            return 256
        if self.kind == "characters":
            return len(self.content)
        return max(self.tokenizer.get_vocab().values(), default=-1) + 1  # there may be gaps

    def encode(self, text: str, what: str = "the text") -> np.ndarray:
        """int64 ids [T]. Raises InputError for a character of `what` that has none."""
        if self.kind == "bytes":
            return np.frombuffer(text.encode(), np.uint8).astype(np.int64)
        if self.kind == "tokenizer":
            try:
                return np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, np.int64)
            except Exception as error:  # the package raises nothing narrower
                raise InputError(f"the tokenizer cannot read {what} ({error})") from error
        if strange := set(text) - self.numbers.keys():
            raise InputError(f"{what} has {min(strange)!r}, which the vocabulary does not have")
        return np.fromiter(map(self.numbers.__getitem__, text), np.int64, len(text))

    def decode(self, ids: np.ndarray) -> str:
        """The text of ids [T] below `used`; bytes that are no UTF-8 become the replacement character."""
        if self.kind == "bytes":
            return bytes(ids.tolist()).decode(errors="replace")
        if self.kind == "tokenizer":
            return self.tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        return "".join(self.content[i] for i in ids)

    def names(self) -> tuple[str, ...]:
        """One name for each id."""
        if self.kind == "bytes":
            names = [chr(i) if 32 < i < 127 else f"0x{i:02x}" for i in range(256)]
        elif self.kind == "characters":
            names = list(self.content)
        else:
            names = [str(self.tokenizer.id_to_token(i)) for i in range(self.used)]
        return (*names, *(f"unused {i}" for i in range(len(names), self.size)))

    def padded(self, size: int) -> Vocabulary:
        """The same with `size` ids. Raises InputError where it has more."""
        if size > MOST:
            raise InputError(f"a vocabulary has at most {MOST:,} ids, got {size:,}")
        if size < self.used:
            raise InputError(f"the vocabulary has {self.used} ids, and {size} are too few")
        return dataclasses.replace(self, size=size)

    @classmethod
    def of_tokenizer(cls, path: Path) -> Vocabulary:
        """The vocabulary of a tokenizer.json. Raises InputError where it cannot be read."""
        with reading(path, Allowance()) as file:
            vocabulary = cls("tokenizer", 1, file.read().decode())
        try:
            return vocabulary.padded(vocabulary.used)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Meta(Typed):
    """What stands in META: the vocabulary of the files beside it, and the size of their text.

    Args:
        vocabulary: of the ids
        tokens: ids in all files together
        bytes: of the text in UTF-8
    """

    vocabulary: Vocabulary
    tokens: Count
    bytes: Count

    def to_json(self) -> dict[str, Any]:
        """Plain data, from which `read` makes the same."""
        return dataclasses.asdict(self)

    @classmethod
    def read(cls, folder: Path) -> Meta | None:
        """What META in the folder holds; None where there is none. Raises InputError where it is damaged."""
        path = folder / META
        if not path.is_file():
            return None
        with reading(path, Allowance()) as file:
            try:
                data = json.loads(file.read())
                meta = cls(**data | {"vocabulary": Vocabulary(**data["vocabulary"])})
                vocabulary = meta.vocabulary
                if vocabulary.size > MOST:
                    raise ValueError(f"more than {MOST:,} ids")
                if vocabulary.kind == "characters" and len(vocabulary.numbers) < len(vocabulary.content):
                    raise ValueError("a character twice")
                return meta
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise InputError(f"{path} does not describe files of tokens ({error})") from error
