"""The command that tries a device, on the CPU: as much of it as there is time for."""

import json

import pytest

from jaxbp.commands.__main__ import main


@pytest.mark.slow
def test_the_command_runs_on_a_cpu_and_says_what_it_left_out(tmp_path, capsys):
    file = tmp_path / "accelerator.json"
    assert main(["accelerator", "--minutes=0.001", f"--json={file}"]) == 0
    report = json.loads(file.read_text())
    assert {row["dtype"] for row in report["gradients"]} == {"float32", "bfloat16"}
    assert all(row["passed"] for row in report["gradients"])
    (model,) = report["models"]
    assert model["operations"] > 0
    assert model["utilisation"] > 0
    assert len(report["left_out"]["gradients"]) > 50
    assert len(report["left_out"]["models"]) == 11
    assert report["machine"]["date"]
    assert "gradients are as exact as they must be" in capsys.readouterr().out


@pytest.mark.nightly
def test_all_gradients_and_models(tmp_path):
    assert main(["accelerator", "--minutes=60", f"--json={tmp_path / 'accelerator.json'}"]) == 0
    report = json.loads((tmp_path / "accelerator.json").read_text())
    assert report["left_out"] == {"gradients": [], "models": []}
