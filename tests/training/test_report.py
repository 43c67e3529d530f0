"""The report: its rules name what is wrong, its page asks for nothing and shows hostile names as text."""

import json
import re
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from jaxbp import config as configuration
from jaxbp.commands.__main__ import main
from jaxbp.data.pipeline import Dataset, Splits
from jaxbp.training.folder import RunFolder
from jaxbp.training.loop import NotFinite, train
from jaxbp.training.report import page
from jaxbp.training.report.diagnosis import RULES, findings
from jaxbp.training.report.evidence import DataFacts, Evidence
from jaxbp.training.report.of_run import write_report
from jaxbp.training.report.page import Part, Section
from jaxbp.training.report.whole import report_of
from tests.support.paths import ROOT
from tests.support.runs import small
from tests.support.sick import sick

DENSE = {"delta": 1.0, "gradient": 1.0, "weight": 1.0, "update": 1e-3, "kept": 0.0, "spread": 1.0, "alike": 1.0}
LAYERS = {
    "00_dense": DENSE,
    "01_relu": {"stuck": 0.1, "saturated": None, "delta": 1.0},
    "02_dense": DENSE,
    "03_sigmoid": {"stuck": 0.0, "saturated": 0.1, "delta": 1.0},
    "04_dense": DENSE,
    "05_recurrent": {"growth": 2.0, "delta": 1.0},
}
LINE = {
    "rows": 128,
    "doubled": 2.0,
    "doubled_delta": 2.0,
    "agreement": 1.0,
    "cosine": 0.5,
    "errors": 0.2,
    "sure_errors": 0.01,
}


def evidence(layers=None, losses=(1.0, 0.6, 0.3, 0.2, 0.1, 0.1), data=None, stopped="", **figures):
    """That of a healthy run, with changes: {"layer.figure": value} and {figure: value}."""
    changed = {name: dict(layer) for name, layer in LAYERS.items()}
    for key, value in (layers or {}).items():
        name, _, figure = key.partition(".")
        changed[name][figure] = value
    health = [
        LINE | {"step": 10 * i, "loss": loss, "noise_scale": 100.0, "layers": changed} | figures
        for i, loss in enumerate(losses)
    ]
    return Evidence([], health, {"run": {"batch_size": 32}}, stopped, data)


FLAT = (1.0, 1.0, 0.99, 1.0, 1.0, 0.98)
SLOW = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
EVERY = ("00_dense", "02_dense", "04_dense")
HEALTHY_DATA = DataFacts(1.0, 0.0, 1, 100, 0.01)
changed = lambda **changes: replace(HEALTHY_DATA, **changes)


@pytest.mark.parametrize(
    ("rule", "case"),
    [
        ("rate too high", {"layers": {f"{n}.update": 0.02 for n in EVERY}, "losses": FLAT}),
        ("rate too high", {"cosine": -0.6, "losses": FLAT}),
        ("rate too low", {"layers": {f"{n}.update": 5e-5 for n in EVERY}, "losses": SLOW}),
        ("dead", {"layers": {"01_relu.stuck": 0.6}}),
        ("saturated", {"layers": {"03_sigmoid.saturated": 0.95}}),
        ("saturated", {"layers": {"03_sigmoid.saturated": 0.6}, "losses": FLAT}),
        ("vanishing", {"layers": {"00_dense.delta": 5e-5}}),
        ("exploding", {"layers": {"05_recurrent.growth": 2e3}}),
        ("exploding", {"layers": {"00_dense.delta": 2e4}}),
        ("shuffle", {"data": changed(mixing=3.0, mixing_errors=9.0)}),
        ("leak", {"data": changed(shared=5)}),
        ("labels", {"errors": 0.2, "sure_errors": 0.18}),
        ("average", {"doubled": 1.0, "doubled_delta": 1.0}),
        ("average", {"agreement": 1 / 32}),
        ("start", {"layers": {"04_dense.spread": 20.0}}),
        ("start", {"layers": {"04_dense.spread": 5e-4}}),
        ("start", {"layers": {"00_dense.alike": 0.0}}),
        ("lost updates", {"layers": {f"{n}.kept": 0.8 for n in EVERY}}),
        ("noise", {"noise_scale": 5e3, "losses": FLAT}),
        ("not finite", {"stopped": "the delta of layer 00_dense"}),
    ],
)
def test_a_rule_names_what_is_wrong(rule, case):
    named = findings(evidence(**case))
    assert [finding.rule for finding in named] == [rule], named
    assert len(named[0].text) > 60


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"data": HEALTHY_DATA},
        {"layers": {f"{n}.update": 0.02 for n in EVERY}},  # large steps of a net that learns
        {"layers": {f"{n}.update": 5e-5 for n in EVERY}},  # small ones of a net that has learnt
        {"layers": {"03_sigmoid.saturated": 0.6}},
        {"cosine": -0.9},
        {"noise_scale": 5e3},
        {"errors": 0.2, "sure_errors": 0.1},
        {"data": changed(mixing=3.0, mixing_errors=2.0)},
        {"data": changed(shared=20, twins=0.3)},
        {"losses": (1.0,)},
        {"agreement": None, "doubled": None, "doubled_delta": None, "cosine": None, "noise_scale": None},
    ],
)
def test_no_rule_speaks_of_what_is_not_wrong(case):
    assert findings(evidence(**case)) == []
    assert findings(Evidence([], [], {"run": {"batch_size": None}})) == []


def test_every_rule_says_its_threshold():
    assert all(re.search(r"\d|every|half", rule.text, re.IGNORECASE) for rule in RULES)
    docs = (ROOT / "docs/report.md").read_text()
    assert [rule.name for rule in RULES if f"| {rule.name} |" not in docs] == []


HOSTILE = "<script>alert('x')</script>\"'&" + "a" * 10_000


def test_a_page_shows_hostile_names_as_text_and_asks_for_nothing(tmp_path):
    parts = [Part(HOSTILE, wrong=[HOSTILE], right=HOSTILE, texts=[HOSTILE], table=[[HOSTILE], [HOSTILE]])]
    (tmp_path / "a.html").write_bytes(page.page(HOSTILE, [Section(HOSTILE, parts)]))
    config = {"run": {"batch_size": 4, HOSTILE: HOSTILE}, "model": {"layer": HOSTILE}}
    (tmp_path / "provenance.json").write_text(json.dumps([{"commit": HOSTILE}]))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "step": 9, "train_loss": 1.0, HOSTILE: 2.0}))
    health = evidence().health[0]
    line = health | {"layers": {HOSTILE: DENSE, "$x^{": DENSE}}
    (tmp_path / "health.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line))
    write_report(tmp_path, config, None)
    for name in ("a.html", "report.html"):
        html = (tmp_path / name).read_text()
        assert "<script" not in html
        assert "&lt;script&gt;" in html
        assert not re.search(r'(src|href|action)=(?!"data:|"#s\d+")|url\(|@import', html)


def named_in(config, folder):
    """The rules that speak in the report of a run of the config."""
    with suppress(NotFinite):
        train(config, folder)
    assert (folder / "report.html").is_file()
    _, _, wrong = report_of(RunFolder(folder), RunFolder(folder).stored(), False, True)
    return {finding.rule: finding.text for finding in wrong}


SICK = sick()


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.nightly) for n in SICK])
def test_a_sick_run_is_named(name, tmp_path):
    config, rule = SICK[name]
    assert rule in named_in(config, tmp_path / "run")


HEALTHY = """adaline autoencoder_kfac characters digits_bilinear digits_dp digits_log_covariance digits_mlp encoder_kfac
    iris linear lissajous lissajous_delay logic logistic reber sine sine_lm xor digits_resnet:10 digits_vit:15 adding:4
    adding_encoder:1"""  # with fewer epochs where a run takes more than two minutes


@pytest.mark.nightly
@pytest.mark.parametrize("entry", HEALTHY.split())
def test_a_healthy_run_is_left_alone(entry, tmp_path):
    name, _, epochs = entry.partition(":")
    config = configuration.load(ROOT / f"configs/{name}.py")
    run = replace(config.run, health_every=10 if config.run.batch_size is None else 50)
    run = replace(run, epochs=int(epochs)) if epochs else run
    assert named_in(replace(config, run=run), tmp_path / "run") == {}


@pytest.mark.slow
def test_the_report_of_two_seeds(tmp_path, capsys):
    """Curves with spread, intervals, confusion, worst examples, weights and differences; its own size; no sentence."""
    for seed in (0, 1):
        train(small(seed=seed, health_every=10, epochs=10), tmp_path / f"run{seed}")
    capsys.readouterr()
    assert main(["report", str(tmp_path / "run0"), str(tmp_path / "run1"), f"--out={tmp_path / 'both.html'}"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "both.html")]
    html = (tmp_path / "both.html").read_text()
    for text in ("and 1 further seeds", "±", "Confusion", "Calibration", "Worst examples", "Weights", "Size of the"):
        assert text in html, text
    assert "run.seed was 0 and is 1" in html
    assert len(html) < 3e6


def test_facts_of_data():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(640, 3)).astype(np.float32), np.repeat(np.arange(2), 320).astype(np.int32)
    splits = Splits(Dataset(x, y), None, Dataset(np.concatenate([x[:30], -x[:70]]), y[:100]), ("a", "b"))
    mixed = DataFacts.of(splits, 10, 0, True)
    assert mixed.mixing == pytest.approx(1, abs=0.6)
    assert abs(mixed.mixing_errors) < 3
    assert (mixed.shared, mixed.tests, mixed.twins) == (30, 100, 0.0)
    ordered = DataFacts.of(splits, 10, 0, False)
    assert ordered.mixing == pytest.approx(40 * 16 / 15)  # 16 groups of 40, whose means are 0 or 1
    assert ordered.mixing_errors > 6
