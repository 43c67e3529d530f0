"""Reports from run folders written by hand: logs of another form, and groups of runs that cannot be averaged."""

import json
import warnings

import pytest

from jaxbp.errors import InputError
from jaxbp.training.folder import RunFolder
from jaxbp.training.identity import Identity
from jaxbp.training.report import several
from jaxbp.training.report.curves import draw_curves, read_metrics
from jaxbp.training.report.diagnosis import findings
from jaxbp.training.report.evidence import Evidence
from jaxbp.training.report.records import is_look, is_row, sessions
from jaxbp.training.report.several import curves_part, figures_part, groups_of, shared_curve
from jaxbp.training.report.whole import whole_report

ROW = {"epoch": 1, "step": 3, "train_loss": 0.5, "test_loss": 0.5, "delta_norms": {"a": [1.0, 2.0]}}
DENSE = {"delta": 1.0, "gradient": 1.0, "weight": 1.0, "update": 1e-3, "spread": None}
LOOK = {"step": 0, "rows": 8, "loss": None, "cosine": 0.5, "layers": {"0": DENSE, "1": {"delta": 1.0}}}
TOO_DEEP = "[" * 100_000
OTHERS = ["5", "null", "[]", "{}", '{"epoch"', TOO_DEEP]
TEXTS_FOR_NUMBERS = ["<b>", None, True, {"a": 1.0}, [1.0], 10**60, -1, float("inf"), float("nan")]

BAD_ROWS = [
    *OTHERS,
    *(json.dumps(ROW | {name: value}) for name in ("epoch", "step") for value in (1.5, *TEXTS_FOR_NUMBERS)),
    *(json.dumps(ROW | {"train_loss": value}) for value in TEXTS_FOR_NUMBERS if value != -1),
    *(json.dumps({k: v for k, v in ROW.items() if k != name}) for name in ("epoch", "step", "train_loss")),
    *(json.dumps(ROW | {"alignment": value}) for value in (1.0, {"a": 1.0}, {"a": ["<b>"]}, {"a": [[1.0]]})),
]
BAD_LOOKS = [
    *OTHERS,
    *(json.dumps(LOOK | {"layers": value}) for value in (5, None, {"0": 5}, {"0": {}}, {"0": {"gradient": 1.0}})),
    *(json.dumps(LOOK | {"layers": {"0": DENSE | {"update": value}}}) for value in ("<b>", [1.0], 10**60)),
    json.dumps(LOOK | {"layers": {"0": {"delta": 1.0, "stuck": 1.0}}}),
    *(json.dumps(LOOK | {name: "<b>"}) for name in ("step", "rows", "loss", "cosine")),
    *(json.dumps({k: v for k, v in LOOK.items() if k != name}) for name in ("step", "rows", "loss", "layers")),
]


def short(text):
    return text[-40:]


@pytest.mark.parametrize("bad", BAD_ROWS, ids=short)
def test_a_damaged_row_ends_the_metrics(bad, tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text("\n".join([json.dumps(ROW), bad, json.dumps(ROW)]))
    assert is_row(ROW)
    assert Evidence.of(tmp_path, {}).rows == read_metrics(file) == [ROW]


@pytest.mark.parametrize("bad", BAD_LOOKS, ids=short)
def test_a_damaged_look_ends_the_health(bad, tmp_path):
    (tmp_path / "health.jsonl").write_text("\n".join([json.dumps(LOOK), bad, json.dumps(LOOK)]))
    assert is_look(LOOK)
    evidence = Evidence.of(tmp_path, {"run": {"batch_size": 8}})
    assert evidence.health == [LOOK]
    findings(evidence)


@pytest.mark.parametrize("bad", ["5", "null", "NaN", "true", "[]", "[5]", "{}", '"a"', TOO_DEEP, "\udcff"], ids=short)
def test_provenance_that_is_no_list_of_sessions_is_damaged(bad, tmp_path):
    assert sessions(tmp_path) is None
    (tmp_path / "provenance.json").write_bytes(bad.encode(errors="surrogateescape"))
    assert sessions(tmp_path) is None


def run_folder(path, seed=0, epochs=2, losses=(0.5, 0.25), **config):
    """A run with a row for each loss."""
    path.mkdir()
    Identity.new().write(path)
    run = {"seed": seed, "epochs": epochs, "patience": None, "batch_size": 8}
    keys = {"data": {}, "model": {}, "loss": {}, "optimizer": {}, "run": run | config}
    (path / "config.json").write_text(json.dumps(keys))
    rows = [{"epoch": i + 1, "step": 3 * i, "train_loss": loss, "test_loss": loss} for i, loss in enumerate(losses)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "provenance.json").write_text('[{"commit": "a"}]')
    return RunFolder(path)


def figures_of(folders):
    """(rows of the table of final figures, all sentences) of the runs together."""
    names = [folder.path.name for folder in folders]
    configs = [folder.stored() for folder in folders]
    evidences = [Evidence.of(folder.path, config) for folder, config in zip(folders, configs, strict=True)]
    groups = groups_of(configs)
    figures = figures_part(names, evidences, groups)
    return figures.table, " ".join(curves_part(names, evidences, groups).texts)


def test_one_run_twice_is_refused(tmp_path):
    a, equal, copy = (run_folder(tmp_path / name) for name in ("a", "equal", "copy"))
    (copy.path / "run.json").write_bytes((a.path / "run.json").read_bytes())
    copy.metrics.write_text("")
    for b in (a, equal, copy):
        with pytest.raises(InputError, match=f"{a.path} and {b.path} are the same run, of one config and seed"):
            whole_report([a, b], code=False, data=False)


def test_runs_of_one_seed_are_not_averaged(tmp_path):
    table, _ = figures_of([run_folder(tmp_path / "a"), run_folder(tmp_path / "b", losses=(0.5, 0.75))])
    assert [row[0] for row in table[1:]] == ["a", "b"]


def test_only_runs_that_have_ended_are_in_the_final_figures(tmp_path):
    folders = [
        run_folder(tmp_path / f"{i}", seed=i, losses=losses) for i, losses in enumerate([(4,), (2, 1), (3, 2), ()])
    ]
    table, text = figures_of(folders)
    assert table[1][:2] == ["1 and 1 further seeds", "2"]
    assert table[1][3].startswith("1.5000 ±")
    assert "0 has not ended: its last row is of epoch 1" in text
    assert "3 has no rows of metrics" in text
    assert len(table) == 2
    epochs, curves = shared_curve([Evidence.of(folder.path, {}) for folder in folders[:3]], "test_loss")
    assert (epochs, curves.tolist()) == ([1], [[4], [2], [3]])
    html, _ = whole_report(folders, code=False, data=False)
    assert b"3 has no rows of metrics" in html


def test_runs_whose_patience_has_ended_are_averaged(tmp_path):
    rows = [[0.5, 0.75], [0.5, 0.25, 0.75], [0.5, 0.25, 0.125]]
    folders = []
    for seed, losses in enumerate(rows):
        folder = run_folder(tmp_path / f"{seed}", seed, 9, losses, patience=1)
        text = folder.metrics.read_text().replace("test_loss", "validation_loss")
        folder.metrics.write_text(text)
        folders.append(folder)
    table, text = figures_of(folders)
    assert table[1][0] == "0 and 1 further seeds"
    assert "have ended at different epochs" in text
    assert "2 has not ended" in text


def test_a_run_without_rows_leaves_the_curve_of_its_group(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(several, "drawn", lambda figure: drawn.extend(len(axes.lines) for axes in figure.axes) or "")
    figures_of([run_folder(tmp_path / "a", seed=1), run_folder(tmp_path / "b", seed=2, losses=())])
    assert drawn == [2]  # of the training and of the test part


@pytest.mark.parametrize("losses", [(0.0, 0.0), (-1.0, -2.0)])
def test_losses_that_have_no_logarithm_are_drawn(losses, tmp_path):
    folder = run_folder(tmp_path / "a", losses=losses)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures_of([folder])
        draw_curves(read_metrics(folder.metrics), tmp_path / "curves.png")


def test_a_provenance_that_is_damaged_is_said(tmp_path):
    folders = [run_folder(tmp_path / "a"), run_folder(tmp_path / "b", seed=1)]
    (tmp_path / "b/provenance.json").write_text("5")
    html, _ = whole_report(folders, code=False, data=False)
    assert f"That of {tmp_path / 'b'} is missing or damaged.".encode() in html
    assert b"provenance.json is missing or damaged." in html
