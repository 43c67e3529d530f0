"""Data sets that are made, not read: characters drawn in pixels, and functions of one variable."""

from __future__ import annotations

from typing import get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxbp.data import Characters, Dataset, Embedded, Function, Splits, TemporalXor, Tones, WrongLabels
from jaxbp.data.characters import CLASSES
from jaxbp.data.function import FUNCTIONS
from jaxbp.errors import InputError

laws = settings(max_examples=30, deadline=None)


def test_characters_look_as_drawn():
    train = Characters().load().train
    rows = ["".join(".#"[int(pixel)] for pixel in row) for row in train.x[CLASSES.index("F")].reshape(7, 5)]
    assert rows == ["#####", "#....", "#....", "####.", "#....", "#....", "#...."]
    assert (train.x.shape, train.x.dtype, train.y.dtype) == ((36, 35), np.float32, np.int32)
    assert len(np.unique(train.x, axis=0)) == 36, "two characters look the same"
    assert set(np.unique(train.x)) == {0, 1}


@laws
@given(st.floats(0, 1), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_characters_have_exactly_the_noise_asked_for(noise, copies, seed):
    splits = Characters(noise, copies, seed=seed).load()
    assert len(splits.test) == 36 * copies
    np.testing.assert_array_equal(np.bincount(splits.test.y), copies)
    flipped = (splits.test.x != splits.train.x[splits.test.y]).sum(axis=1)
    np.testing.assert_array_equal(flipped, round(noise * 35))
    np.testing.assert_array_equal(splits.test.x, Characters(noise, copies, seed=seed).load().test.x)


def test_characters_noise_differs_by_seed_and_by_copy():
    first, second = (Characters(0.2, 2, seed=seed).load().test.x for seed in (0, 1))
    assert (first != second).any()
    assert (first[0] != first[1]).any()


def test_characters_one_hot():
    splits = Characters(one_hot=True).load()
    np.testing.assert_array_equal(splits.train.y, np.eye(36))


@laws
@given(st.sampled_from(sorted(FUNCTIONS)), st.integers(0, 100), st.floats(-50, 50), st.floats(0.1, 50))
def test_function_without_noise_is_the_function(name, seed, low, width):
    splits = Function(name, examples=20, low=low, high=low + width, seed=seed).load()
    assert (len(splits.train), len(splits.test), splits.classes) == (16, 4, None)
    for part in (splits.train, splits.test):
        assert part.x.shape == part.y.shape
        assert ((part.x >= np.float32(low)) & (part.x <= np.float32(low + width))).all()
        away = np.abs(part.x) > 1e-3  # from the step, where rounding x moves y
        np.testing.assert_allclose(part.y[away], FUNCTIONS[name](part.x.astype(float))[away], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "x", "y"),
    [
        ("sine", np.pi / 2, 1),
        ("cosine", np.pi, -1),
        ("sinc", 0.5, 2 / np.pi),
        ("sinc", 0, 1),
        ("gaussian", 1, 1 / np.e),
        ("square", -3, 9),
        ("polynomial", 2, 6),
        ("absolute", -2, 2),
        ("step", -0.1, 0),
        ("step", 0, 1),
    ],
)
def test_functions_at_known_points(name, x, y):
    assert FUNCTIONS[name](np.float64(x)) == pytest.approx(y)


def test_every_function_has_a_name_in_the_config():
    assert set(get_args(get_type_hints(Function)["name"])) == set(FUNCTIONS)


def test_function_noise_has_the_standard_deviation_asked_for():
    train = Function("square", examples=4000, noise=0.5).load().train
    assert (train.y - train.x**2).std() == pytest.approx(0.5, rel=0.05)


def test_function_points_depend_on_the_seed():
    first, second = (Function("sine", seed=seed).load() for seed in (0, 1))
    assert not np.isin(first.train.x, [*second.train.x, *second.test.x]).any()


@pytest.mark.parametrize("length", [3, 7])
def test_every_third_bit_is_the_xor_of_the_two_before(length):
    splits = TemporalXor(length=length, examples=200, test_examples=2).load()
    bits = np.concatenate([splits.train.x[:, :1], splits.train.y], 1)[..., 0]
    np.testing.assert_array_equal(splits.train.x[:, 1:], splits.train.y[:, :-1])
    np.testing.assert_array_equal(bits[:, 2::3], (bits[:, :-2:3] + bits[:, 1:-1:3]) % 2)
    assert abs(bits.mean(0) - 0.5).max() < 0.15
    np.testing.assert_array_equal(splits.test.mask, np.tile(np.arange(length) % 3 == 1, (2, 1)))


def test_a_tone_has_its_frequency():
    train = Tones(tones=4, length=80, noise=0.1).load().train
    strongest = np.abs(np.fft.rfft(train.x[..., 0])).argmax(-1)  # cycles in 80 samples
    np.testing.assert_array_equal(strongest, (train.y + 1) * 8)


@pytest.mark.parametrize("tones", [2, 4, 499, 1000])
def test_every_tone_has_a_name_of_its_own(tones):
    names = Tones(tones=tones, length=2, examples=1, test_examples=1).load().classes
    assert len(set(names)) == tones
    np.testing.assert_allclose(np.array(names, float), np.arange(1, tones + 1) / (2 * tones + 2), rtol=5e-3)


def test_one_class_has_no_wrong_labels(monkeypatch):
    part = Dataset(np.zeros((3, 1), np.float32), np.zeros(3, np.int32))
    splits = Splits(part, None, part, ("setosa",))
    monkeypatch.setattr(Embedded, "load", lambda self: splits)
    with pytest.raises(InputError, match="WrongLabels: data must have at least two classes, got setosa alone"):
        WrongLabels(Embedded("iris"), 0.0).load()


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_training_labels_is_wrong(share):
    right, noisy = (data.load() for data in (Embedded("digits"), WrongLabels(Embedded("digits"), share)))
    wrong = right.train.y != noisy.train.y
    assert wrong.sum() == round(share * len(wrong))
    assert np.bincount(noisy.train.y[wrong], minlength=10).min() >= wrong.sum() / 20
    np.testing.assert_array_equal(right.train.x, noisy.train.x)
    np.testing.assert_array_equal(right.test.y, noisy.test.y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WrongLabels(Function("sine"), 0.1).load(), "^WrongLabels: data must have classes"),
        (lambda: WrongLabels(Characters(one_hot=True), 0.1).load(), "^WrongLabels: data must have classes"),
        (lambda: Tones(tones=1), "tones must be an integer of at least 2, got 1$"),
        (lambda: Function("sin"), r"^unknown Function name 'sin'; did you mean 'sine'"),
        (lambda: Function("sine", examples=1), "examples must be an integer of at least 2, got 1$"),
        (lambda: Function("sine", low=1, high=1), "low must be below high, got 1 and 1$"),
        (lambda: Function("sine", high=2e6), r"high must be .* in \[-1000000.0, 1000000.0\], got 2000000.0$"),
        (lambda: Function("sine", noise=-1), r"noise must be .* in \[0, 1000000.0\], got -1$"),
        (lambda: Function("sine", one_hot=True).load(), "^one_hot=True needs class labels"),
        (lambda: Characters(noise=1.1), r"noise must be .* in \[0, 1\], got 1.1$"),
        (lambda: Characters(copies=0), "copies must be an integer of at least 1, got 0$"),
        (lambda: Characters(seed=-1), "seed must be an integer in "),
    ],
)
def test_made_data_refuses(make, message):
    with pytest.raises(InputError, match=message):
        make()
