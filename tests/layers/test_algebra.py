"""Products of vectors: the known algebras by their laws, and the layer against complex numbers."""

import itertools

import numpy as np
import pytest

import jaxbp
from jaxbp.errors import InputError
from jaxbp.layers.algebra import PRODUCTS, convolution

DRAW = np.random.default_rng(0)


def times(product, a, b):
    return np.einsum("cab,a,b->c", product, a, b)


@pytest.mark.parametrize(("name", "size"), [("real", 1), ("complex", 2), ("quaternion", 4), ("octonion", 8)])
def test_lengths_multiply_in_the_four_normed_algebras(name, size):
    """Hurwitz 1898: there are no others."""
    a, b = DRAW.normal(size=(2, size))
    np.testing.assert_allclose(
        np.linalg.norm(times(PRODUCTS[name], a, b)), np.linalg.norm(a) * np.linalg.norm(b), rtol=1e-12
    )
    np.testing.assert_array_equal(times(PRODUCTS[name], np.eye(size)[0], b), b)


def test_hamiltons_rule():
    """i^2 = j^2 = k^2 = i j k = -1."""
    one, *units = np.eye(4)
    product = PRODUCTS["quaternion"]
    for a, b in itertools.permutations(units, 2):
        np.testing.assert_array_equal(times(product, a, b), -times(product, b, a))
    i, j, k = units
    for square in (times(product, i, i), times(product, j, j), times(product, k, k)):
        np.testing.assert_array_equal(square, -one)
    np.testing.assert_array_equal(times(product, times(product, i, j), k), -one)


@pytest.mark.parametrize("size", [4, 3])
def test_convolution_is_that_of_polynomials(size):
    a, b = DRAW.integers(-9, 9, (2, 3))
    whole = np.convolve(a, b)
    folded = whole[:size] + np.pad(whole[size:], (0, 2 * size - 5))
    np.testing.assert_array_equal(times(convolution(3, 3, size), a, b), folded)


def test_a_complex_neuron_and_a_real_one():
    x = DRAW.normal(size=(5, 3, 2)).astype(np.float32)
    w, b = DRAW.normal(size=(4, 3, 2)).astype(np.float32), DRAW.normal(size=(4, 2)).astype(np.float32)
    y = np.asarray(jaxbp.AlgebraDense(4, "complex").forward({"w": w, "b": b}, x)[0])
    number = lambda a: a[..., 0] + 1j * a[..., 1]
    np.testing.assert_allclose(number(y), number(x) @ number(w).T + number(b), rtol=1e-5)


def test_what_is_no_product_is_refused():
    with pytest.raises(InputError, match="unknown AlgebraDense product 'quaternions'; did you mean 'quaternion'"):
        jaxbp.AlgebraDense(3, "quaternions")
    for product in ((((1.0, 0.0),), ((1.0,),)), (), (((),),), (((float("nan"),),),)):
        with pytest.raises(InputError, match=r"product must be numbers \[C\]\[A\]\[B\], or a name"):
            jaxbp.AlgebraDense(3, product)
    with pytest.raises(InputError, match=r"takes \[N, \.\.\., I, 4\], got \[5, 3, 2\]"):
        jaxbp.AlgebraDense(3).init(None, jaxbp.shaped(5, 3, 2))


@pytest.mark.parametrize("shape", [(5, 3, 1), (5, 3, 3), (5, 4)])
def test_vectors_of_another_length_are_refused_in_use(shape):
    params = {"w": np.ones((2, 3, 4), np.float32), "b": np.ones((2, 4), np.float32)}
    with pytest.raises(InputError, match=r"AlgebraDense takes \[N, ..., I, 4\], got"):
        jaxbp.AlgebraDense(2).forward(params, np.ones(shape, np.float32))


def test_a_product_is_hashable_and_exact_however_it_is_given():
    layer = jaxbp.AlgebraDense(2, [[[0.1, 2]]])
    assert layer == jaxbp.AlgebraDense(2, np.array([[[0.1, 2]]])) == jaxbp.AlgebraDense(2, (((0.1, 2),),))
    assert hash(layer) == hash(jaxbp.AlgebraDense(2, (((0.1, 2),),)))
    assert layer.constants[0, 0, 0] == 0.1
    for product in ([[[1e39]]], np.array([[[1j]]]), [[["1"]]]):
        with pytest.raises(InputError, match="or a name; real ones up to"):
            jaxbp.AlgebraDense(2, product)
