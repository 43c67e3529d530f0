"""Text to token ids, in files that `jaxbp train` and other trainers read:

    jaxbp tokenize FILE --out=DIR [--tokenizer=bytes | characters | PATH/tokenizer.json]

The folder gets train.bin, test.bin and meta.json, or stays as it was. A tokenizer.json needs 'jaxbp[tokens]'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxbp.commands import cli
from jaxbp.data.outside import located
from jaxbp.data.token_files import FORMS, FormName
from jaxbp.data.tokenize import Cut, tokenize
from jaxbp.data.tokens import matching
from jaxbp.data.vocabulary import Vocabulary
from jaxbp.errors import InputError
from jaxbp.typed import Count, Fraction, Typed


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        text: a file in UTF-8, or in quotes a pattern such as 'books/*.txt' of files, which follow each other by name
        out: the new folder
        tokenizer: bytes, characters, or the path of a tokenizer.json
        test_fraction: fraction of the ids at the end that goes into test.bin; 0: no such file
        multiple: the number of ids of the vocabulary is rounded up to a multiple of this
        end: a token of the tokenizer.json that follows each file, such as <|endoftext|>
        form: raw as nanoGPT has it, llm.c or llama-3; None: llm.c, and llama-3 for more than 65,536 ids
        shard: ids in a file of the training part, train_000.bin and so on; None: all are in train.bin
    """

    text: str
    out: str
    tokenizer: str = "characters"
    test_fraction: Fraction = 0.1
    multiple: Count = 1
    end: str | None = None
    form: FormName | None = None
    shard: Count | None = None


def main(words: Sequence[str]) -> int:
    """Tokenizes the files that the words name, and returns the exit status."""
    options = cli.read_all(Options, words)
    out = located(options.out)
    if out.exists():
        raise InputError(f"--out: {out} is there already, and nothing is overwritten")
    if not out.parent.is_dir():
        raise InputError(f"--out: there is no folder {out.parent}")
    paths = matching(located(options.text))
    fixed = {"bytes": Vocabulary("bytes", 256), "characters": None}
    name = options.tokenizer
    vocabulary = fixed[name] if name in fixed else Vocabulary.of_tokenizer(Path(name))
    cut = Cut(options.test_fraction, options.form, options.shard)
    meta, files = tokenize(paths, out, vocabulary, cut, options.multiple, options.end)
    for file in files:
        print(f"{file.path}  {file.count:,} ids, {file.form}, {FORMS[file.form].dtype}")
    print(f"{meta.tokens:,} ids of {meta.bytes:,} bytes: model.outputs is {meta.vocabulary.size}")
    return 0
