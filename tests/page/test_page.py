"""The stepping page in a browser: stepping, dragging, planting, keys, widths, hostile names, no request, no error."""

import json
import re

import jax
import numpy as np
import pytest

from jaxbp import value_and_grad
from jaxbp.analysis.record import record
from jaxbp.commands.__main__ import main
from jaxbp.config import load
from jaxbp.page import contents
from jaxbp.page.setting import setting
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow
EXAMPLE = ROOT / "configs/examples/two_by_two.py"
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\"'`${1}"
LONG = "x" * 10_000


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """The page of the 2-2-2 network, as the command writes it."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    assert main(["trace", f"--config={EXAMPLE}", f"--html={path}", "--updates=2"]) == 0
    return path


@pytest.fixture(scope="module")
def data(page_file):
    """What the page holds."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page_file.read_text())
    return json.loads(found[1])


@pytest.fixture
def opened(browser, tmp_path):
    """opened(path or contents, width, scheme) -> the page; at the end, no error and no request but for the file."""
    problems, requests, pages = [], [], []

    def opened(source, width=1000, scheme="light"):
        if isinstance(source, dict):
            path = tmp_path / "page.html"
            path.write_bytes(contents.page(source))
            source = path
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"file://{source}")
        pages.append(page)
        return page

    yield opened
    assert problems == []
    assert [url for url in requests if not url.startswith(("file:///", "blob:", "data:"))] == []
    assert len([url for url in requests if url.startswith("file:")]) == len(pages)
    for page in pages:
        assert page.evaluate("window.hacked") is None
        page.close()


def text(page, where):
    """What stands there, with a letter x for the sign of multiplication."""
    return page.inner_text(where).replace("\N{MULTIPLICATION SIGN}", "x")


def exported(page):
    """The JSON that the button gives."""
    with page.expect_download() as download:
        page.click("#export")
    return json.loads(download.value.path().read_text())


def truth(changed=None):
    """The record of the example's first pass, with the parameters and the batch of an export if there is one."""
    with jax.enable_x64(True):
        start = setting(load(EXAMPLE))
        params, batch = (changed["params"], changed["batch"]) if changed else (start.params, start.batch)
        is_list = lambda node: isinstance(node, list)
        wide = lambda tree: jax.tree.map(lambda a: np.asarray(a, np.float64), tree, is_leaf=is_list)
        result = jax.jit(value_and_grad(start.model, start.config.loss))(wide(params), wide(batch))
        return jax.device_get(result)


def same(ours, theirs):
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-12, atol=1e-17)


def test_stepping_by_key_shows_every_equation(opened, page_file):
    page = opened(page_file)
    assert page_file.stat().st_size < 300_000
    equations, places = [], [text(page, "#where")]
    for _ in range(10):
        page.keyboard.press("ArrowRight")
        places.append(text(page, "#where"))
        equations.append(text(page, "#equations"))
    assert len(set(places)) == 11
    assert "pass 1 of 2, step 11 of 11, loss 0.29837" in places[-1]
    for tag in ("BP1", "BP2", "BP3", "BP4", "error x slope", "rate x gradient"):
        assert any(tag in equation for equation in equations)
    assert "0.35892" in text(page, "#tables")  # the new w5
    page.keyboard.press("End")
    assert "after 2 updates, step 5 of 11" in text(page, "#where")
    for key, place in (("Home", places[0]), ("PageDown", "pass 2 of 2, step 1"), ("PageUp", places[0])):
        page.keyboard.press(key)
        assert place in text(page, "#where")
    page.fill("#position", "6")
    assert text(page, "#where") == places[6]


def test_its_numbers_are_those_of_the_trace(opened, page_file, data):
    page = opened(page_file)
    assert float(re.search(r"by ([0-9.e+-]+) at most", text(page, "#agreement"))[1]) <= 1e-12
    numbers = exported(page)
    rows = {row["name"]: row for row in data["passes"][0]["rows"]}
    result = truth()
    same(numbers["pass"]["value"], result.value)
    for name in ("00_dense", "02_dense"):
        for leaf in ("w", "b"):
            same(numbers["pass"]["gradients"][name][leaf], result.grads[name][leaf])
            same(rows[f"{name}/{leaf}"]["autodiff"], result.grads[name][leaf])
    page.keyboard.press("End")
    page.click("#previous")
    page.click("summary >> nth=0")
    page.wait_for_selector("#all table")
    assert "02_dense/w" in text(page, "#all")


def test_a_dragged_weight_and_an_input_change_everything(opened, page_file):
    page = opened(page_file)
    box = page.locator("[id='w2.0.0'] .thin").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y - 30, steps=3)
    page.mouse.up()
    page.locator("[id='u0.1']").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowDown")
    numbers = exported(page)
    assert numbers["edited"]
    assert numbers["params"]["02_dense"]["w"][0][0] == pytest.approx(0.70)
    assert numbers["batch"]["x"] == [[0.05, pytest.approx(0.01)]]
    result = truth(numbers)
    same(numbers["pass"]["value"], result.value)
    same(numbers["pass"]["gradients"]["00_dense"]["w"], result.grads["00_dense"]["w"])
    page.fill("#position", "9")
    assert "differences" in text(page, "#tables")  # autodiff's numbers are not these
    assert page.locator("#tables .bad").count() == 0
    page.click("#reset")
    assert not exported(page)["edited"]


def test_focus_shows_where_a_number_comes_from(opened, page_file):
    page = opened(page_file)
    page.fill("#position", "8")
    page.locator("[id='u1.0']").focus()
    assert "error = 0.4 x 0.1385 + 0.5 x (-0.038098) = 0.03635" in text(page, "#detail")
    assert {node.get_attribute("id") for node in page.locator("g.lit").all()} == {"w2.0.0", "w2.1.0", "u2.0", "u2.1"}
    page.locator("[id='w2.0.0']").hover()
    assert "dL/dw = 0.1385 x 0.59327 = 0.082167" in text(page, "#detail")
    factors = "dL/da x da/dz x dz/dw = 0.74137 x 0.18682 x 0.59327 = 0.082167, example 1"
    assert factors in text(page, "#detail")
    assert page.get_by_role("button", name="output 1, a 0.75137, delta 0.1385").count() == 1
    page.locator("#theme").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "w1.0.0"  # the network follows the controls


def test_the_shares_of_several_examples_and_their_sum(opened, data):
    batch = data["net"]["batch"]
    two = {"x": [*batch["x"], [0.3, -0.2]], "y": batch["y"] * 2, "weight": [0.5, 0.5]}
    page = opened({**data, "examples": 2, "net": {**data["net"], "batch": two}})
    page.fill("#position", "7")
    head, first = (page.locator("#tables tr").nth(row).inner_text().split("\t") for row in (0, 1))
    assert head[:4] == ["entry", "example 1", "example 2", "sum, by hand"]
    shares = [float(share) for share in first[1:4]]
    assert shares[0] + shares[1] == pytest.approx(shares[2], rel=1e-3)
    assert shares[0] == pytest.approx(0.082167 / 2, rel=1e-3)
    before = page.locator("[id='u0.0']").get_attribute("aria-label")
    page.select_option("#example", "1")
    assert (before, page.locator("[id='u0.0']").get_attribute("aria-label")) == ("input 1, x 0.05", "input 1, x 0.3")


def test_a_penalty_is_a_step_of_its_own(opened, data):
    net = {**data["net"], "penalties": {"02_dense/w": [0.1, 0.01]}}
    page = opened({**data, "penalty": "Penalty(l2=0.1, l1=0.01)", "net": net})
    page.fill("#position", "10")
    assert text(page, "#stage") == "The penalty"
    assert "step 11 of 12, loss 0.29837 + penalty 0.06475" in text(page, "#where")
    row = page.locator("#tables tr").nth(1).inner_text().split("\t")
    assert row == ["0.4", "0.082167", "0.05", "0.13217"]
    page.keyboard.press("ArrowRight")
    page.fill("#position", "11")
    assert "0.33392" in text(page, "#tables")  # 0.4 - 0.5 x 0.13217
    page.fill("#position", "4")
    assert "L + penalty = 0.36312" in text(page, "#equations")


def test_every_planted_mistake_is_named_and_shown(opened, page_file, data):
    page = opened(page_file)
    causes = {
        "slope": "activation derivative left out",
        "transpose": "transposed",
        "sign": "sign flipped",
        "stepped": "weights already stepped",
    }
    assert [mistake["name"] for mistake in data["mistakes"]] == list(causes)
    page.fill("#position", "9")
    assert page.locator("#tables .bad").count() == 0
    for number, mistake in enumerate(data["mistakes"]):
        page.select_option("#mistake", str(number))
        assert not mistake["passed"]
        assert causes[mistake["name"]] in text(page, "#report")
        assert page.locator("#tables .bad").count() == 6
        losses = page.locator("#curve svg").get_attribute("aria-label")
        shown = [float(number) for number in losses.partition("with the mistake ")[2].split(", ")]
        np.testing.assert_allclose(shown, mistake["losses"], rtol=1e-4)
    page.select_option("#mistake", "")
    assert not page.is_visible("#planted")


def test_it_fits_narrow_and_wide_windows_light_and_dark(opened, page_file):
    colours = set()
    for width, scheme in ((360, "light"), (1400, "dark")):
        page = opened(page_file, width, scheme)
        page.fill("#position", "9")
        page.select_option("#mistake", "0")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        colour = "getComputedStyle(document.body).backgroundColor"
        colours.add(page.evaluate(colour))
        page.click("#theme")
        colours.add(page.evaluate(colour))
    assert len(colours) == 2


def test_hostile_and_endless_names_are_text(opened, data):
    hostile = {
        **data,
        "title": HOSTILE + LONG,
        "classes": [HOSTILE, LONG],
        "model": HOSTILE + LONG,
        "config": HOSTILE + LONG,
        "optimizer": HOSTILE + LONG,
        "loss": HOSTILE + LONG,
    }
    page = opened(hostile, 360)
    assert text(page, "#title") == HOSTILE + LONG
    for position in (4, 8, 10):
        page.fill("#position", str(position))
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.click("summary >> nth=1")
    assert HOSTILE in text(page, "#config")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("has_numbers", [True, False])
def test_a_model_that_is_not_drawn_has_its_recorded_numbers(opened, data, has_numbers):
    names = ("value", "by_hand", "autodiff")
    kept = lambda row: {key: value for key, value in row.items() if has_numbers or key not in names}
    passes = [{"loss": table["loss"], "rows": [kept(row) for row in table["rows"]]} for table in data["passes"]]
    page = opened({**data, "net": None, "passes": passes})
    page.fill("#position", "7")
    shown = text(page, "main")
    assert "Backward through 02_dense" in shown
    assert "02_dense/w [2 x 2]: norm 0.95656, norm of the derivative 0.12089" in shown
    assert ("0.082167" in shown) == has_numbers
    assert ("shapes and norms alone" in text(page, "#agreement")) != has_numbers
    page.select_option("#mistake", "2")
    assert "sign flipped" in text(page, "#report")


def test_many_numbers_become_norms_and_infinities_texts(monkeypatch):
    monkeypatch.setattr(contents, "NUMBERS", 10)
    with jax.enable_x64(True):
        start = setting(load(EXAMPLE))
        table = record(start.model, start.config.loss, start.params, start.batch, start.ctx)
        monkeypatch.setattr(contents, "recorded", lambda start, updates: [table])
        held = contents.contents(start, "title", 0)
    assert held["mistakes"] == []
    assert all("value" not in row and row["norm"] > 0 for row in held["passes"][0]["rows"])
    page = contents.page({**held, "right": [float("nan"), float("-inf")]}).decode()
    assert '"right": ["NaN", "-Infinity"]' in page
