"""Token files: the three forms, windows, the order that is computed, and what `tokenize` writes."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxbp.data import Splits, Tokens, permutation, tokenize
from jaxbp.data.permutation import permuted
from jaxbp.data.preparation import Preparation
from jaxbp.data.token_files import TokenFile
from jaxbp.data.tokenize import Cut
from jaxbp.data.vocabulary import Vocabulary
from jaxbp.errors import InputError
from jaxbp.training.feeds import StreamFeed, make_feeds
from jaxbp.training.run import fingerprint

IDS = np.arange(1000) * 7 % 300  # more than a byte holds
WRITTEN = {  # each form as its own trainer writes it
    "raw": lambda ids: ids.astype("<u2").tobytes(),
    "llm.c": lambda ids: start(20240520, 1, len(ids)) + ids.astype("<u2").tobytes(),
    "llama-3": lambda ids: start(20240801, 7, len(ids)) + ids.astype("<u4").tobytes(),
}


def start(*numbers):
    return np.array([*numbers, *[0] * (256 - len(numbers))], "<i4").tobytes()


def text(part, rows=slice(None)):
    return part.x[rows].ravel().tolist()


# --- the order ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 3000), st.integers(0, 2**32 - 1), st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_the_order_is_a_permutation_at_any_place(size, seed, number):
    order = permuted(np.arange(size), size, seed, number)
    assert sorted(order.tolist()) == list(range(size))
    place = size // 3
    assert permuted(np.array([place]), size, seed, number) == order[place]


@pytest.mark.slow
def test_all_orders_of_four_come_equally_often():
    """Chi squared of 24 orders over 4,800 keys: 60 is the 1 - 3e-5 quantile at 23 degrees of freedom."""
    _, counts = np.unique([permuted(np.arange(4), 4, seed, 1) for seed in range(4800)], axis=0, return_counts=True)
    assert len(counts) == 24
    assert ((counts - 200) ** 2 / 200).sum() < 60


def test_the_order_of_many_has_no_trend():
    order = permuted(np.arange(100_000), 100_000, 3, 0)
    for other in (np.arange(100_000), np.roll(order, 1), permuted(np.arange(100_000), 100_000, 3, 1)):
        assert abs(np.corrcoef(order, other)[0, 1]) < 4 / np.sqrt(100_000)


def test_a_far_place_of_a_long_order_costs_nothing():
    assert 0 <= permuted(np.array([10**15]), 10**16 + 1, 0)[0] <= 10**16
    assert permutation.ROUNDS % 2 == 0


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", WRITTEN)
def test_windows_of_every_form(tmp_path, form):
    (tmp_path / "some.bin").write_bytes(WRITTEN[form](IDS))
    assert TokenFile.open(tmp_path / "some.bin").form == form
    splits = Tokens(str(tmp_path / "some.bin"), length=9, vocabulary=300, test_fraction=0.2).load()
    train = len(splits.train) * 9
    assert train == (999 // 9 - round(0.2 * (999 // 9))) * 9
    assert text(splits.train) == IDS[:train].tolist()
    assert splits.train.y[:].ravel().tolist() == IDS[1 : train + 1].tolist()
    assert text(splits.test) == IDS[train : train + len(splits.test) * 9].tolist()
    assert splits.test.y[-1].tolist() == IDS[train + 1 :][: len(splits.test) * 9][-9:].tolist()
    assert splits.train.x.dtype == np.int32
    assert text(splits.train.take(np.array([5, 2]))) == [*IDS[45:54], *IDS[18:27]]


def test_windows_end_with_their_file_and_the_folder_has_its_own_test_part(tmp_path):
    parts = {"fineweb_train_000001.bin": IDS[:100], "fineweb_train_000002.bin": IDS[100:140], "fineweb_val.bin": IDS}
    for name, ids in parts.items():
        (tmp_path / name).write_bytes(WRITTEN["llm.c"](ids))
    splits = Tokens(str(tmp_path), length=30, vocabulary=300, test_windows=4).load()
    assert text(splits.train) == [*IDS[:90], *IDS[100:130]]
    assert text(splits.train, np.array([3, 0])) == [*IDS[100:130], *IDS[:30]]
    assert text(splits.test) == [*IDS[:30], *IDS[240:270], *IDS[480:510], *IDS[720:750]]
    pattern = Tokens(str(tmp_path / "*train*2.bin"), str(tmp_path / "*val*"), length=30, vocabulary=300).load()
    assert text(pattern.train) == IDS[100:130].tolist()
    assert len(pattern.test) == 33


def test_the_default_needs_no_file():
    splits = Tokens(length=64).load()
    assert len(splits.classes) == 256
    assert "import" in splits.preparation.raw.vocabulary.decode(splits.train.x[:100].ravel())
    assert Preparation.from_json(json.loads(json.dumps(splits.preparation.to_json()))) == splits.preparation


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"abc", r"has 3 bytes, and ids of uint16 without a header take an even number"),
        (start(20240520, 1, 9) + bytes(16), "has 1040 bytes, and its header says 9 ids, which take 1042: it was cut"),
        (start(20240801, 7, 3) + bytes(6), "has 1030 bytes, and its header says 3 ids, which take 1036"),
        (start(20240520, 2, 1) + bytes(2), "is version 2 of the llm.c form, and 1 can be read"),
        (start(20240522, 1, 1), "holds multiple-choice questions"),
        (start(20240520, 1, -5), "its header says -5 ids"),
        (bytes(40), "has no window of length=128 in its training part"),
        (np.full(9000, 300, "<u2").tobytes(), r"holds id 300, and ids must lie in 0..299 \(data.vocabulary\)"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(tmp_path, content, line):
    (tmp_path / "some.bin").write_bytes(content)
    with pytest.raises(InputError, match=line):
        Tokens(str(tmp_path / "some.bin"), vocabulary=300).load()


def test_what_is_missing_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"there is no file .*nowhere\.bin"):
        Tokens(str(tmp_path / "nowhere.bin")).load()
    with pytest.raises(InputError, match="has no file named train"):
        Tokens(str(tmp_path)).load()
    (tmp_path / "train.bin").write_bytes(WRITTEN["raw"](IDS))
    with pytest.raises(InputError, match=r"no meta\.json beside .*: set data.vocabulary to the number of ids"):
        Tokens(str(tmp_path), length=9).load()
    (tmp_path / "meta.json").write_text('{"tokens": 1}')
    with pytest.raises(InputError, match=r"meta\.json does not describe files of tokens"):
        Tokens(str(tmp_path), length=9).load()
    (tmp_path / "meta.json").unlink()
    splits = Tokens(str(tmp_path / "train.bin"), length=9, vocabulary=300).load()
    (tmp_path / "train.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"train\.bin: has become shorter since it was opened"):
        splits.train.take(slice(3))


def test_other_ids_have_another_fingerprint(tmp_path):
    def of(ids):
        (tmp_path / "a.bin").write_bytes(WRITTEN["raw"](ids))
        return fingerprint(Tokens(str(tmp_path / "a.bin"), length=9, vocabulary=300).load())

    changed = IDS.copy()
    changed[400] += 1
    assert of(IDS) == of(IDS)
    assert len({of(IDS), of(changed), of(IDS[:-9])}) == 3


# --- what a run sees ------------------------------------------------------------------------------------------------


@pytest.fixture
def stream(tmp_path):
    (tmp_path / "a.bin").write_bytes(WRITTEN["raw"](IDS))
    return lambda **keys: Tokens(str(tmp_path / "a.bin"), length=9, vocabulary=300, **keys).load().train


def epochs(part, first, last, batch, shuffle=True, per_call=2):
    """The first ids of the windows of every epoch, in the order in which the steps see them."""
    feed = make_feeds(part, 5, shuffle, batch)(first, last)
    assert isinstance(feed, StreamFeed)
    ids = []
    for start in range(0, feed.steps, per_call):
        call, index = feed.call(start, per_call)
        assert call.x.shape == (per_call * batch, 9)
        for step in range(min(per_call, feed.steps - start)):
            seen = call.batch(index + step)
            np.testing.assert_array_equal(seen["y"][:, :-1], seen["x"][:, 1:])
            counts = np.asarray(seen["mask"])
            assert (counts == counts[:, :1]).all()
            ids += [row.tolist() for row, count in zip(np.asarray(seen["x"]), counts[:, 0], strict=True) if count]
    return np.array(ids).reshape(last - first, len(part), 9)


@pytest.mark.slow
def test_every_pass_has_every_window_once_in_another_order(stream):
    part = stream()
    seen = epochs(part, 0, 2, batch=7)
    rows = [sorted(map(tuple, epoch.tolist())) for epoch in seen]
    assert rows[0] == rows[1] == sorted(map(tuple, part.x[:].tolist()))
    assert (seen[0] != seen[1]).any()
    np.testing.assert_array_equal(epochs(part, 1, 2, batch=7, per_call=5)[0], seen[1])  # whoever begins there


@pytest.mark.slow
def test_epochs_of_some_windows_go_on_where_one_ends(stream):
    whole = epochs(stream(), 0, 2, batch=1, per_call=40).reshape(-1, 9)
    parts = epochs(stream(windows=30), 0, 6, batch=7).reshape(-1, 9)
    np.testing.assert_array_equal(parts, whole[:180])


def test_without_shuffling_windows_come_in_the_order_of_the_text(stream):
    part = stream()
    np.testing.assert_array_equal(epochs(part, 0, 1, batch=7, shuffle=False)[0], part.x[:])


# --- tokenize -------------------------------------------------------------------------------------------------------

WORDS = "Ähre und Öl,\n\n  the quick\tbrown fox \n jumps\nover the lazy dog. \n\nfox\nfox \r\n" * 20


@pytest.fixture
def tokenizer(tmp_path):
    """A tokenizer of GPT-2's kind, trained on a few words, in a file."""
    library = pytest.importorskip("tokenizers", reason="pip install tokenizers for this test")
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    made.train_from_iterator([WORDS], trainer)
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def write(tmp_path, *texts):
    paths = [tmp_path / f"{i}.txt" for i in range(len(texts))]
    for path, content in zip(paths, texts, strict=True):
        path.write_bytes(content.encode())
    return paths


def all_text(splits: Splits, out):
    files = [TokenFile.open(path) for path in (*sorted(out.glob("train*.bin")), *out.glob("test.bin"))]
    ids = np.concatenate([file.read(np.array([0]), file.count)[0] for file in files])
    return splits.preparation.raw.vocabulary.decode(ids)


@pytest.mark.parametrize("form", [None, *WRITTEN])
@pytest.mark.parametrize("kind", ["bytes", "characters", "tokenizer"])
def test_text_comes_back_from_its_ids(tmp_path, kind, form, request):
    vocabulary = {"bytes": lambda: Vocabulary("bytes", 256), "characters": lambda: None}.get(
        kind, lambda: Vocabulary.of_tokenizer(request.getfixturevalue("tokenizer"))
    )()
    meta, files = tokenize.tokenize(write(tmp_path, WORDS, "fox"), tmp_path / "out", vocabulary, Cut(0.2, form), 64)
    splits = Tokens(str(tmp_path / "out"), length=8).load()
    assert {file.form for file in files} == {form or "llm.c"}
    assert all_text(splits, tmp_path / "out") == WORDS + "fox"
    assert files[1].count == round(0.2 * meta.tokens)
    assert meta.bytes == len((WORDS + "fox").encode())
    assert splits.item_bytes == meta.bytes / meta.tokens
    assert len(splits.classes) == meta.vocabulary.size == -(-meta.vocabulary.used // 64) * 64


def test_a_long_text_has_the_ids_that_it_has_in_one_piece(tmp_path, tokenizer, monkeypatch):
    vocabulary = Vocabulary.of_tokenizer(tokenizer)
    monkeypatch.setattr(tokenize, "BLOCK", 37)
    assert len(list(tokenize.blocks(write(tmp_path, WORDS)[0], anywhere=False))) > 20
    _, files = tokenize.tokenize(write(tmp_path, WORDS, "ox"), tmp_path / "out", vocabulary, Cut(0), 1, "<|endoftext|>")
    end = vocabulary.tokenizer.token_to_id("<|endoftext|>")
    expected = [*vocabulary.encode(WORDS), end, *vocabulary.encode("ox"), end]
    assert files[0].read(np.array([0]), files[0].count)[0].tolist() == expected


@pytest.mark.parametrize(
    "text",
    ["the cock crows, " * 40, "a  b   c d\te " * 40, "ab" * 300, "\0" * 500],
    ids=["words", "runs of blanks", "letters", "zeros"],
)
@pytest.mark.parametrize("anywhere", [False, True])
def test_a_text_without_ends_of_lines_is_never_gathered(anywhere, text, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenize, "BLOCK", 37)
    (path,) = write(tmp_path, text)
    if not anywhere and " " not in text:
        with pytest.raises(
            InputError, match="has 74 characters without the end of a line, or a blank between two words"
        ):
            list(tokenize.blocks(path, anywhere))
        return
    parts = list(tokenize.blocks(path, anywhere))
    assert "".join(parts) == text
    assert max(map(len, parts)) <= 2 * 37
    encode = Vocabulary.of_tokenizer(tokenizer).encode if not anywhere else Vocabulary("bytes", 256).encode
    assert np.concatenate([encode(part) for part in parts]).tolist() == encode(text).tolist()


def test_shards(tmp_path):
    _, files = tokenize.tokenize(write(tmp_path, WORDS), tmp_path / "out", None, Cut(0.5, shard=300))
    counts = [file.count for file in files]
    assert [file.path.name for file in files[:2]] == ["train_000.bin", "train_001.bin"]
    assert sum(counts) == len(WORDS)
    assert set(counts[:-2]) == {300}
    assert all_text(Tokens(str(tmp_path / "out"), length=8).load(), tmp_path / "out") == WORDS


@pytest.mark.parametrize(
    ("content", "keys", "line"),
    [
        (b"\xff\xfe", {}, "cannot read .*0.txt"),
        (b"", {}, "the text is empty"),
        (b"abc", {"end": "<|endoftext|>"}, "is a token of a tokenizer.json, and these ids are characters"),
        (b"abc", {"cut": Cut(form="raw"), "multiple": 70_000}, "the raw form holds ids below 65536"),
    ],
)
def test_what_cannot_be_tokenized_leaves_nothing(tmp_path, content, keys, line):
    (tmp_path / "0.txt").write_bytes(content)
    with pytest.raises(InputError, match=line):
        tokenize.tokenize([tmp_path / "0.txt"], tmp_path / "out", **keys)
    assert os.listdir(tmp_path) == ["0.txt"]


def test_a_file_with_a_header_holds_what_its_header_can_count():
    with pytest.raises(InputError, match="holds at most 2,147,483,647 ids: set shard to fewer"):
        list(Cut(0.1).parts(2**32, "llm.c"))
    assert len(list(Cut(0.1).parts(2**32, "raw"))) == 2


def words(path, **keys):
    """A tokenizer.json of words."""
    content = json.loads(Vocabulary.of_tokenizer(path).content) | keys
    file = path.with_name("words.json")
    file.write_text(json.dumps(content | {"pre_tokenizer": {"type": "Whitespace"}}))
    return Vocabulary.of_tokenizer(file)


def word_level(**vocabulary):
    return {"type": "WordLevel", "vocab": vocabulary, "unk_token": "no"}


def test_a_tokenizer_that_cuts_and_fills_texts_neither_cuts_nor_fills_this_one(tmp_path, tokenizer):
    cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    fill = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}
    vocabulary = words(
        tokenizer,
        model=word_level(a=0, b=1),
        added_tokens=[],
        truncation=cut,
        padding=fill | {"pad_to_multiple_of": None},
    )
    assert vocabulary.encode("a b " * 3).tolist() == [0, 1] * 3


@pytest.mark.parametrize("damage", [{"size": 10**12}, {"content": "aa"}])
def test_a_vocabulary_that_fills_the_memory_or_has_a_character_twice_is_one_line(damage, tmp_path):
    tokenize.tokenize(write(tmp_path, "ab" * 50), tmp_path / "out")
    file = tmp_path / "out/meta.json"
    meta = json.loads(file.read_text())
    file.write_text(json.dumps(meta | {"vocabulary": meta["vocabulary"] | damage}))
    with pytest.raises(InputError, match="does not describe files of tokens"):
        Tokens(str(tmp_path / "out"), length=4).load()
    file.unlink()
    with pytest.raises(InputError, match="at most 16,777,216 ids"):
        Tokens(str(tmp_path / "out"), length=4, vocabulary=10**12).load()


def test_ids_of_a_tokenizer_may_have_gaps(tmp_path, tokenizer):
    vocabulary = words(tokenizer, model=word_level(a=0, b=70000), added_tokens=[])
    assert vocabulary.size == 70001
    _, files = tokenize.tokenize(write(tmp_path, "a b a b"), tmp_path / "out", vocabulary, Cut(test_fraction=0))
    assert files[0].form == "llama-3"
    assert files[0].read(np.array([0]), 4).tolist() == [[0, 70000, 0, 70000]]


def test_a_text_that_a_tokenizer_cannot_read_is_one_line(tmp_path, tokenizer):
    vocabulary = words(tokenizer, model=word_level(a=0), added_tokens=[])
    with pytest.raises(InputError, match="the tokenizer cannot read the text"):
        vocabulary.encode("b")


def test_a_training_part_without_ids_is_one_line(tmp_path):
    with pytest.raises(InputError, match="leaves none of the 2 ids"):
        tokenize.tokenize(write(tmp_path, "ab"), tmp_path / "out", cut=Cut(test_fraction=0.9))
    assert not (tmp_path / "out").exists()
