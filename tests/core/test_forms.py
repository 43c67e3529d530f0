"""Programs lowered from here for CPU, CUDA and TPU: the training step of every config, and its operations there.

Nothing is compiled. The forms that were chosen for the CPU are in its program alone.
"""

import jax
import pytest

from jaxbp import Conv, Embedding, SquaredError
from jaxbp.config import load, replace_keys
from jaxbp.core import leaf_layers
from jaxbp.data import Csv, Mnist
from jaxbp.devices.forms import PLATFORMS, forms, read
from jaxbp.layers.embedding import PRODUCT
from jaxbp.training.fit import batch_specs
from jaxbp.training.loop import training_step
from jaxbp.training.step import initial_state
from tests.commands.test_check_gradients import write_images
from tests.support.conformance import all_cases, setting
from tests.support.paths import ROOT

FILES = sorted(ROOT.glob("configs/*.py"))
DECOMPOSED = {"autoencoder_kfac", "encoder_kfac", "sine_lm"}  # each platform has decompositions of matrices of its own
# random bits, calls of the host, decompositions
EACH_ITS_OWN = {"Dropout", "Gaussian", "BlackBox", "Spectral", "Eigh", "Svd", "Whitening", "Structured"}
OF_MATRICES = {
    "digits_bilinear",
    "digits_log_covariance",
    "digits_whitening",
}  # their functions of matrices are float32
CHEAP = {"digits_mlp", "characters", "digits_resnet"}
# layers whose forms differ; attention's table of distances is an embedding
NORMS = {"BatchNorm", "BatchNormReLU", "LayerNorm", "RMSNorm"}
FOR_THE_CPU = {"Attention", "Conv", "ConvTranspose", "Embedding", "Recurrent"} | NORMS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small files in place of those that a user downloads."""
    folder = tmp_path_factory.mktemp("data")
    write_images(folder, 28)
    (folder / "seeds.csv").write_text("".join(f"{'0.5,' * 7}{label}\n" for label in (1, 2, 3) * 40))
    return folder


def step_forms(path, folder, **run):
    """{platform: the forms of the config's training step}."""
    config = load(path)
    if isinstance(config.data, Mnist):
        config = replace_keys(config, {"data.path": str(folder), "data.train_size": None})
    if isinstance(config.data, Csv):
        config = replace_keys(config, {"data.path": str(folder / "seeds.csv")})
    if hasattr(config.data, "rotation"):  # the images are turned by a product, before the model
        config = replace_keys(config, {"data.shift": 0, "data.rotation": 0.0})
    splits = config.load_data()
    rows = min(config.run.batch_size or len(splits.train), len(splits.train))
    config = replace_keys(config, {"run.batch_size": rows} | {f"run.{key}": value for key, value in run.items()})
    batch = batch_specs(splits, rows)
    model = config.build_model()
    objective = config.objective(batch["x"])
    optimizer = config.build_optimizer(100, objective.spec)
    state = jax.eval_shape(lambda: initial_state(model, optimizer, objective.spec, 0))
    step = training_step(config, model, optimizer, objective)
    return forms(step, state, batch | {"mask": batch.pop("weight")})


def marked(paths, cheap):
    """The set in CI is small, for each of the others repeats its layers."""
    return [
        pytest.param(p, id=p.stem, marks=[pytest.mark.slow] if p.stem in cheap else [pytest.mark.nightly])
        for p in paths
    ]


@pytest.mark.parametrize("path", marked(FILES, CHEAP))
def test_a_training_step_lowers_for_all_platforms(path, folder):
    """CUDA and TPU get the same operations: one convolution each, and nothing that was chosen for the CPU."""
    by_platform = step_forms(path, folder)
    print("\n".join(f"{platform}: {of}" for platform, of in by_platform.items()))
    assert tuple(by_platform) == PLATFORMS
    elsewhere = by_platform["cuda"].operations
    if path.stem not in DECOMPOSED | OF_MATRICES:
        assert elsewhere == by_platform["tpu"].operations
    convolutions = sum(isinstance(leaf, Conv) for leaf in leaf_layers(load(path).model.build()))
    assert convolutions * 2 <= elsewhere["convolution"] <= convolutions * 3
    assert not elsewhere["optimization_barrier"]
    tables = [leaf for leaf in leaf_layers(load(path).model.build()) if isinstance(leaf, Embedding)]
    if tables and all(leaf.vocabulary <= PRODUCT for leaf in tables):
        assert by_platform["cpu"].operations["scatter"]
        assert not elsewhere["scatter"]


HALF = [path for path in FILES if path.stem not in DECOMPOSED | {"digits_dp"}]  # which run.dtype refuses


@pytest.mark.parametrize("path", marked(HALF, {"digits_mlp", "digits_resnet"}))
def test_products_are_bfloat16_summed_in_float32(path, folder):
    """On all three platforms; a squared error, norms on the CPU and functions of matrices are float32."""
    plain = step_forms(path, folder)
    for platform, of in step_forms(path, folder, dtype="bfloat16").items():
        kinds = {(product.left, product.right, product.sum) for product in of.products}
        assert kinds <= {("bf16", "bf16", "f32"), ("f32", "f32", "f32")}, platform
        wide = [product for product in of.products if product.left == "f32"]
        of_loss = isinstance(load(path).loss, SquaredError)
        assert platform == "cpu" or path.stem in OF_MATRICES or len(wide) == of_loss
        assert len(of.products) == len(plain[platform].products)
        assert len(of.products) > len(wide)


@pytest.mark.slow
@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(
    "names",
    [
        pytest.param(FOR_THE_CPU | {"Dense", "MaxPool", "GroupNorm"}, id="some"),
        pytest.param(None, id="all", marks=pytest.mark.nightly),
    ],
)
def test_only_these_layers_have_forms_for_the_cpu(names):
    different = set()
    for case in all_cases():
        name = type(case.layer).__name__
        if leaf_layers(case.layer) != [case.layer] or name in EACH_ITS_OWN:
            continue
        if names is not None and name not in names:
            continue
        params, x, ctx, dy = setting(case)
        both = lambda params, x, ctx, dy, layer=case.layer: layer.backward(params, layer.forward(params, x, ctx)[1], dy)
        of = forms(both, params, x, ctx, dy)
        assert of["cuda"] == of["tpu"], case
        assert not of["cuda"].operations["optimization_barrier"], case
        if of["cuda"] != of["cpu"]:
            different.add(name)
    assert different == (FOR_THE_CPU if names else FOR_THE_CPU | {"GRUCell", "LSTMCell"})


def test_forms_of_a_text():
    text = """
    %1 = stablehlo.dot_general %a, %b, precision = [] : (tensor<2x3xbf16>, tensor<3x4xbf16>) -> tensor<2x4xf32>
    %2 = "stablehlo.scatter"(%1, %c, %d) <{}> ({
    %3 = stablehlo.custom_call @lapack_spotrf_ffi(%2) : (tensor<2xf32>) -> tensor<2xf32>
    """
    of = read(text)
    assert str(of) == "1 dot_general, 1 lapack_spotrf_ffi, 1 scatter"
    assert [(p.left, p.right, p.sum) for p in of.products] == [("bf16", "bf16", "f32")]
