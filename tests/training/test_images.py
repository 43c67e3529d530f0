"""Networks on images: random shifts and rotations, the models, what can be seen of a run."""

import math
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.check import assert_model
from jaxbp.config import Config, Run
from jaxbp.data import Embedded
from jaxbp.data.moved import moved
from jaxbp.errors import InputError
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import CNN, ResNet
from jaxbp.optim import AdamW
from jaxbp.training.loop import train
from jaxbp.training.report import pictures
from jaxbp.training.report.weights import weight_panels, weights_figure
from jaxbp.training.run import load
from tests.support.commands import command

IMAGE = np.arange(1.0, 36).reshape(1, 5, 7, 1).astype(np.float32)


# --- shifts and rotations -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shifts_are_whole_pixels_and_bring_in_zeros():
    x = jnp.asarray(np.repeat(IMAGE, 60, 0))
    shifted = np.asarray(moved(jax.random.key(0), x, 2, 0.0))
    padded = np.pad(IMAGE[0], ((2, 2), (2, 2), (0, 0)))
    places = {(i, j): padded[i : i + 5, j : j + 7] for i in range(5) for j in range(5)}
    seen = {
        next(place for place, image in places.items() if np.array_equal(image, shifted_image))
        for shifted_image in shifted
    }
    assert len(seen) > 15  # of 25 places in 60 draws


@pytest.mark.slow
def test_a_quarter_turn_is_exact(monkeypatch):
    square = jnp.asarray(np.arange(1.0, 26).reshape(1, 5, 5, 1).astype(np.float32))
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype, low, high: jnp.full(shape, 90.0, dtype))
    turned = np.asarray(moved(jax.random.key(0), square, 0, 90.0))[0, ..., 0]
    np.testing.assert_allclose(turned, np.rot90(square[0, ..., 0]), atol=1e-4)


@pytest.mark.slow
def test_rotations_keep_the_middle_and_stay_in_their_range():
    x = jnp.zeros((40, 21, 21, 1)).at[:, 10, 18].set(1)
    turned = np.asarray(moved(jax.random.key(1), x, 0, 30.0))[..., 0]
    rows, columns = np.meshgrid(np.arange(21) - 10, np.arange(21) - 10, indexing="ij")
    weight = turned.sum((1, 2))
    angle = np.degrees(np.arctan2(-(turned * rows).sum((1, 2)) / weight, (turned * columns).sum((1, 2)) / weight))
    assert np.abs(angle).max() <= 30 + 4
    assert angle.min() < -15
    assert angle.max() > 15


@pytest.mark.slow
def test_moves_are_a_function_of_the_key():
    x = jnp.asarray(np.repeat(IMAGE, 3, 0))
    first, same, other = (np.asarray(moved(jax.random.key(seed), x, 2, 20.0)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_the_option_moves_training_images_only_and_refuses_flat_ones():
    data = Embedded("digits", image=True, shift=1)
    x = jnp.asarray(data.load().train.x[:4])
    assert not np.array_equal(data.augment(jax.random.key(0), x), x)
    assert replace(data, shift=0).augment(jax.random.key(0), x) is x
    with pytest.raises(InputError, match=r"shift and rotation need images .* got shape \(4, 64\): set data.image=True"):
        data.augment(jax.random.key(0), x.reshape(4, -1))


# --- models ---------------------------------------------------------------------------------------------------------


def count(model, shape):
    spec = jax.ShapeDtypeStruct(shape, jnp.float32)
    params = jax.eval_shape(lambda key: model.init(key, spec), jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)), jaxbp.output_spec(model, spec).shape


def test_parameters_of_lenet_5():
    """156 + 2,416 of C1 and C3 (each of its maps sees all of S2), 48,120 of C5, 10,164 of F6, 850 of the output."""
    lenet = CNN(outputs=10, channels=(6, 16), padding=(2, 0), pooling="average", hidden=(120, 84), activation="tanh")
    assert count(lenet.build(), (3, 28, 28, 1)) == (156 + 2416 + 48120 + 10164 + 850, (3, 10))


@pytest.mark.slow
def test_parameters_of_a_residual_network():
    """ResNet-20 of the paper: 0.27 million; ours has 1x1 convolutions where the shape changes."""
    parameters, shape = count(ResNet(outputs=10, blocks=3).build(), (2, 32, 32, 3))
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert shape == (2, 10)
    assert parameters - shortcuts == 269_722


def test_every_stage_needs_its_padding():
    with pytest.raises(InputError, match=r"CNN: padding must have one number for each of the 1 channels, got \(0, 0\)"):
        CNN(outputs=10, channels=(8,))


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        CNN(outputs=3, channels=(4, 5), kernel=2, padding=(1, 0), hidden=(7,), activation="tanh"),
        CNN(outputs=3, channels=(4,), kernel=3, padding=(1,), pooling="average"),
        pytest.param(ResNet(outputs=3, channels=(4, 6), blocks=1), marks=pytest.mark.nightly),
    ],
    ids=["max", "average", "residual"],
)
def test_whole_models_equal_autodiff(model):
    model, x = model.build(), jnp.asarray(np.random.default_rng(0).normal(size=(5, 9, 8, 2)), jnp.float32)
    spec = jax.ShapeDtypeStruct(x.shape, x.dtype)
    batch = {"x": x, "y": jnp.arange(5, dtype=jnp.int32) % 3, "weight": jnp.full(5, 0.2)}
    ctx = jaxbp.Context(None, model.init_state(spec))
    assert_model(model, SoftmaxCrossEntropy(), model.init(jax.random.key(0), spec), batch, ctx)


# --- what can be seen -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A folder with a short run of a small network on digits."""
    folder = tmp_path_factory.mktemp("run")
    model = CNN(outputs=10, channels=(4,), kernel=3, padding=(0,), hidden=(8,))
    train(
        Config(
            data=Embedded("digits", image=True),
            model=model,
            loss=SoftmaxCrossEntropy(),
            optimizer=AdamW(learning_rate=1e-2),
            run=Run(epochs=1, batch_size=64),
        ),
        folder,
    )
    return folder


@pytest.mark.slow
def test_evaluation_leaves_pictures_in_the_run_folder(run):
    command("evaluate.py", f"--run={run}")
    for name in ("filters", "weights", "activations", "mistakes", "confusion"):
        assert (run / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_kept_outputs_are_the_forward_pass(run):
    model, params, state, config, *_ = load(run)
    x = config.data.load().test.x[:2]
    outputs = pictures.outputs(model, params, state, x)
    y, _ = model.forward(params, x, jaxbp.Context(None, state, train=False))
    assert list(outputs) == list(params)
    np.testing.assert_allclose(list(outputs.values())[-1], y, rtol=1e-5)


def test_matrices_are_tiles_on_pixels_and_heat_maps_elsewhere():
    """The second matrix has as many inputs as the image has pixels too."""
    draw = np.random.default_rng(0)
    params = {
        "00_dense": {"w": draw.normal(size=(36, 36)), "b": np.zeros(36)},
        "01_dense": {"w": draw.normal(size=(600, 36))},
    }
    model = jaxbp.Chain(jaxbp.Dense(36), jaxbp.Dense(600, bias=False))
    first, second = weight_panels(model, params, None, np.zeros((2, 36)))
    assert (first.title, first.is_tiles) == ("00_dense/w [36, 36]", True)
    np.testing.assert_array_equal(first.picture, pictures.tiles(params["00_dense"]["w"].reshape(36, 6, 6)))
    assert (second.title, second.is_tiles) == ("01_dense/w [600, 36], first 512 x 36", False)
    np.testing.assert_array_equal(second.picture, params["01_dense"]["w"][:512].astype(np.float32))
    heat_maps = weight_panels(model, params, None, np.zeros((2, 35)))
    assert [panel.is_tiles for panel in heat_maps] == [False, False]


def test_a_title_says_how_many_tiles_there_are():
    """300 units on 3 channels are 900 tiles, of which 256 are drawn."""
    model = jaxbp.Chain(jaxbp.Flatten(), jaxbp.Dense(300, bias=False))
    params = {"00_flatten": {}, "01_dense": {"w": np.ones((300, 36))}}
    (colours,) = weight_panels(model, params, None, np.zeros((2, 3, 4, 3)))
    assert (colours.title, colours.is_tiles) == ("01_dense/w [300, 36], first 256 of 900 tiles", True)


def test_a_matrix_on_other_inputs_than_the_image_is_no_tiles():
    """After the activation there are as many inputs as pixels, but they are not the pixels; and ids are none."""
    model = jaxbp.Chain(jaxbp.Flatten(), jaxbp.ReLU(), jaxbp.Dense(5, bias=False))
    params = {"00_flatten": {}, "01_relu": {}, "02_dense": {"w": np.ones((5, 36))}}
    (panel,) = weight_panels(model, params, None, np.zeros((2, 6, 6, 1)))
    assert not panel.is_tiles
    (table,) = weight_panels(jaxbp.Embedding(9, 36), {"w": np.ones((9, 36))}, None, np.zeros((2, 36), np.int32))
    assert not table.is_tiles


def test_every_array_of_parameters_is_shown_and_what_is_left_out_is_said():
    """w of three axes too, and under the figure's title the number of those that are not drawn."""
    params = {f"{i:02}_layer": {"w": np.arange(24.0).reshape(2, 3, 4), "b": np.zeros((2, 4))} for i in range(9)}
    panels = weight_panels(jaxbp.Chain(), params, None, np.zeros((2, 5)))
    assert [panel.title for panel in panels[:2]] == ["00_layer/b [2, 4]", "00_layer/w [2, 3, 4]"]
    np.testing.assert_array_equal(panels[1].picture, np.arange(24.0).reshape(6, 4))
    assert weights_figure(panels[:1], 18).get_suptitle() == "The first 1 of 18 arrays"
    assert len(panels) == 12


def test_tiles_keep_every_image_and_stretch_it():
    images = np.random.default_rng(0).normal(size=(5, 3, 2))
    whole = pictures.tiles(images)
    assert whole.shape == (2 * 4 - 1, 3 * 3 - 1)
    first = images[0]
    np.testing.assert_allclose(whole[:3, :2], (first - first.min()) / (first.max() - first.min()), rtol=1e-6)
    np.testing.assert_array_equal(whole[4:, 6:], 0.5)  # no sixth image
