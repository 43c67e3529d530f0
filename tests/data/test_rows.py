"""Examples and initial values that a config writes out: what they become, and one clear line where they do not fit."""

import jax
import numpy as np
import pytest

from jaxbp import Dense, InputError, shaped
from jaxbp.data import Rows
from jaxbp.inits import Given
from jaxbp.typed import field_types, parse


def test_numbers_keep_their_digits_in_float64_and_are_float32_otherwise():
    data = Rows(((0.1, 0.2), (0.3, 0.4)), ((0.05,), (0.06,)))
    assert data.load().train.x.dtype == np.float32
    with jax.enable_x64(True):
        assert data.load().train.x[0, 0] == 0.1
    assert Rows(((1.0,), (2.0,)), ((0.0,), (1.0,)), ("a", "b")).load().train.y.tolist() == [0, 1]


def test_the_command_line_separates_rows_by_semicolons():
    assert parse("--x", "0.1, 0.2; 3,4", field_types(Rows)["x"]) == ((0.1, 0.2), (3.0, 4.0))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Rows(((1.0, 2.0), (3.0,)), ((0.0,), (1.0,))).load(), r"rows of x must be equally long.*\[1, 2\]"),
        (lambda: Rows((), ()).load(), "rows of x must be equally long"),
        (lambda: Rows(((1.0,),), ((0.5,),), ("a", "b")).load(), "one label 0, 1, ... in each row"),
        (lambda: Rows(((1.0,),), ((2.0,),), ("a", "b")).load(), r"label 2, and labels must lie in 0..1"),
        (lambda: Rows(((1.0,), (2.0,)), ((0.0,),)).load(), "x has 2 rows and y has 1"),
        (
            lambda: Dense(2, w_init=Given(((1.0, 2.0),))).init(jax.random.key(0), shaped(1, 2)),
            r"shape \[2, 2\].*\[1, 2\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(make, words):
    with pytest.raises(InputError, match=words) as error:
        make()
    assert "\n" not in str(error.value)
