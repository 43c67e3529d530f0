"""report.html in a browser: narrow and wide, light and dark, hostile names as text, no request, no error."""

import json

import pytest

from jaxbp.training.report.of_run import write_report

HOSTILE = "</td><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\"'`${1}" + "x" * 10_000
LAYER = {"delta": 1.0, "gradient": 1.0, "weight": 1.0, "update": 1e-3, "mean": 0.0, "spread": 1.0, "cosine": 0.5}


@pytest.mark.slow
def test_the_report_opens_anywhere_and_asks_for_nothing(browser, tmp_path):
    line = {"rows": 128, "loss": 1.0, "layers": {HOSTILE: LAYER, "01_dense": LAYER}}
    lines = [json.dumps(line | {"step": step}) for step in range(0, 100, 10)]
    (tmp_path / "health.jsonl").write_text("\n".join(lines))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "step": 9, "train_loss": 1.0, HOSTILE: 2.0}))
    (tmp_path / "provenance.json").write_text(json.dumps([{"command": HOSTILE}]))
    write_report(tmp_path, {"run": {"batch_size": 8, HOSTILE: HOSTILE}}, None)
    problems, requests = [], []
    for width, scheme in ((360, "dark"), (1400, "light")):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"file://{tmp_path / 'report.html'}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("window.hacked") is None
        assert "Update beside weight" in page.inner_text("main")
        assert "window.hacked" in page.inner_text("main")
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert colour == ("rgb(22, 24, 28)" if scheme == "dark" else "rgb(255, 255, 255)")
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 300)")
        page.close()
    assert problems == []
    assert {url.partition(":")[0] for url in requests} <= {"file", "data"}
    assert len([url for url in requests if url.startswith("file:")]) == 2
