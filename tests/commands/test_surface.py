"""`jaxbp surface` and `jaxbp rate`: pictures of a run, made again to the bit, and one line for what they cannot do."""

import jax
import numpy as np
import pytest

from jaxbp.analysis.surfaces import perceptron as perceptron_path
from jaxbp.commands.__main__ import main
from jaxbp.commands.surface import PARTED, Options, boundary, compare, perceptron, plane, plane_data
from jaxbp.config import load as load_config
from jaxbp.errors import InputError
from jaxbp.optim import LBFGS
from jaxbp.training.loop import train
from jaxbp.training.retrace import RateSweep, Retrace, sweep_rates
from tests.support.runs import weights

CONFIG = """
from jaxbp.config import Config, Run
from jaxbp.data import Plane
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import MLP
from jaxbp.optim import Adam

def get_config():
    return Config(
        Plane("moons", examples=200),
        MLP(outputs=2, hidden=(8,), dropout=0.2),
        SoftmaxCrossEntropy(),
        Adam(0.05),
        Run(epochs=4, batch_size=32),
    )
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("surface")
    (folder / "moons.py").write_text(CONFIG)
    train(load_config(folder / "moons.py"), folder / "run")
    return folder


@pytest.mark.slow
def test_a_run_is_made_again_to_the_bit(run):
    config = load_config(run / "moons.py")
    steps, way = Retrace.of(config, config.load_data()).weights(3)
    assert steps.tolist() == [0, 10, 20]
    assert b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(way[-1]["params"])) == weights(run / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "perceptron --config={0}/moons.py --config.data.name=blobs --frames=3",
        *(
            pytest.param(words, marks=pytest.mark.nightly)
            for words in (
                "boundary --run={0}/run --frames=3 --points=11",
                "plane --run={0}/run --frames=4 --points=5",
                "line --run={0}/run --points=5",
                "weight --run={0}/run --points=5",
                "weight --run={0}/run --weight=03_dense/b/1 --points=5",
                "compare --config={0}/moons.py --key=model.w_init --values=he_normal,normal --config.run.epochs=1",
            )
        ),
    ],
    ids=lambda words: words.split()[0],
)
def test_each_picture(words, run):
    assert main(["surface", *words.format(run).split(), f"--out={run / 'picture.png'}"]) == 0
    assert (run / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_what_a_picture_shows(run, capsys):
    """The way ends at the run's weights, the slice's middle is the run's loss, the perceptron's last line parts all."""
    read = lambda kind, *words: Options(kind=kind, run=str(run / "run"), frames=5, points=5)
    way, around = plane(read("plane"), []).axes[:2]
    line = next(line for line in way.lines if len(line.get_xdata()) == 5)
    np.testing.assert_allclose(line.get_xydata()[-1], 0, atol=1e-12)
    assert around.get_xlim() == (-1, 1)
    assert [axes.get_title() for axes in boundary(read("boundary"), []).axes[:5]] == [
        f"step {step}" for step in (0, 1, 5, 11, 20)
    ]
    panels = perceptron(read("perceptron"), []).axes
    together, right = panels[-2:]
    assert len(together.collections) == 5  # a line for each panel
    assert right.lines[0].get_ydata()[-1] == 1 > right.lines[0].get_ydata()[0]
    assert panels[0].get_title() == "after correction 1"
    corrections = int(capsys.readouterr().out.split()[0])
    assert panels[4].get_title() == f"after correction {corrections}"
    x, classes = plane_data(PARTED.load())
    path = perceptron_path(x, classes, 1000)
    assert len(path) == corrections + 1
    assert ((x @ path[-1, :2] + path[-1, 2] > 0) == classes).all()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("surface plane", "plane needs --run=DIR, a run folder"),
        ("surface bowl --config.run.epochs=2", "--config.run.epochs=2 cannot change here"),
        ("surface perceptron --config=digits_mlp", "the data must be points in the plane with classes"),
        ("rate xor --low=1 --high=0.1", "--low must be below --high, got 1 and 0.1"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(words, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    err = capsys.readouterr().err
    assert line in err
    assert err.count("\n") == 1


def test_the_suggested_rate_is_where_the_loss_falls_fastest():
    rates = 10.0 ** np.linspace(-4, 1, 51)
    losses = 1 - 1 / (1 + (0.02 / rates) ** 2) + (rates / 3) ** 4  # falls fastest for a factor in the rate at 0.02
    sweep = RateSweep(rates, losses, np.where(losses < 4, losses, np.nan))
    assert sweep.steepest == pytest.approx(0.02, rel=0.3)
    assert sweep.lowest == pytest.approx(rates[np.argmin(losses)])


def test_a_single_lucky_step_is_no_suggestion():
    rates = 10.0 ** np.linspace(-4, 1, 51)
    losses = 1 - 1 / (1 + (0.02 / rates) ** 2) + (rates / 3) ** 4
    losses[5:] -= 0.3  # a drop within one step, at 2e-4
    assert RateSweep(rates, losses, losses).steepest == pytest.approx(0.02, rel=0.3)


def test_an_optimizer_without_a_rate_is_refused(tmp_path):
    (tmp_path / "moons.py").write_text(CONFIG.replace("Adam(0.05)", "LBFGS()").replace("import Adam", "import LBFGS"))
    config = load_config(tmp_path / "moons.py")
    assert isinstance(config.optimizer, LBFGS)
    with pytest.raises(InputError, match="LBFGS has no learning rate with a schedule"):
        sweep_rates(config, config.load_data(), 1e-3, 1.0, 10)


def test_all_values_are_looked_up_before_the_first_is_trained(monkeypatch):
    monkeypatch.setattr(Retrace, "of", lambda *arguments: pytest.fail("it trains"))
    with pytest.raises(InputError, match="nowhere"):
        compare(Options("compare", values="0.1,nowhere", key="optimizer.learning_rate"), [])
