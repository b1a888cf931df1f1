"""The page for people, in a real browser: every task, the key, the keyboard, a phone, the policy."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import bertonnx
from tests.tiny import save_tiny

sync_api = pytest.importorskip("playwright.sync_api", reason="a browser is driven by playwright")

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium; on Debian: apt-get install chromium"
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.serving import Running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as driver:
        # Without a sandbox, which the administrator of a container has not.
        made = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


@pytest.fixture
def page(browser: Browser, server: Running) -> Iterator[Page]:
    opened = browser.new_page()
    problems: list[str] = []
    # What the policy forbids and what fails is said there.
    opened.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.goto(server.url)
    opened.wait_for_selector("#model option", state="attached")
    yield opened
    opened.close()
    assert problems == []


def ask(page: Page, model: str, texts: str | None = None, question: str | None = None) -> None:
    page.select_option("#model", model)
    if question is not None:
        page.fill("#question", question)
    if texts is not None:
        page.fill("#texts", texts)
    # Whatever was said of the model before.
    page.click("#go")
    sync_api.expect(page.locator("#said")).to_contain_text(re.compile(r"^[0-9]+ ms"))


def test_labels_are_bars(page: Page, local: Mapping[str, bertonnx.Model]) -> None:
    ask(page, "mood", "A lovely film.\n\nSlow and dull.")
    rows = page.query_selector_all("#results .result")
    assert [row.query_selector(".text").inner_text() for row in rows] == ["A lovely film.", "Slow and dull."]  # type: ignore[union-attr]
    wanted = local["mood"].classify(["A lovely film."])[0]["scores"]
    shown = [cell.inner_text() for cell in rows[0].query_selector_all(".bars > *")]
    best = max(wanted, key=wanted.__getitem__)
    assert shown[0] == best
    assert shown[2] == f"{wanted[best]:.4f}"
    assert len(shown) == 3 * len(wanted)


def test_entities_and_answers_are_marked(page: Page, local: Mapping[str, bertonnx.Model]) -> None:
    text = "👩‍🔬 Ada Lovelace lived in London."
    ask(page, "names", text)
    found = local["names"].entities([text])[0]["entities"]
    marks = [mark.inner_text() for mark in page.query_selector_all("#results mark")]
    assert [re.sub(r"\s*[A-Z]+$", "", mark) for mark in marks] == [
        one["text"].strip() for one in found
    ] or len(marks) == len(found)
    ask(page, "reader", text, "Where?")
    (answer,) = local["reader"].answer(["Where?"], [text])
    assert page.inner_text("#results mark") == answer["answer"]


def test_masks_ranks_similarity_and_sparse(page: Page, local: Mapping[str, bertonnx.Model]) -> None:
    ask(page, "filler")
    best = local["filler"].fill_mask([page.input_value("#texts")])[0]["masks"][0][0]
    assert page.inner_text("#results .bars > span") == best["token"]
    ask(page, "ranker", "Mars is red.\nI like tea.", "red planet?")
    order = local["ranker"].rank("red planet?", ["Mars is red.", "I like tea."])
    texts = [node.inner_text() for node in page.query_selector_all("#results li .text")]
    assert texts == [["Mars is red.", "I like tea."][one["index"]] for one in order]
    ask(page, "mini", "one\ntwo\nthree")
    cells = [cell.inner_text() for cell in page.query_selector_all("#results td")][1:]
    wanted = local["mini"].similarity(["one", "two", "three"], ["one", "two", "three"])
    assert cells == [f"{value:.3f}" for value in wanted.ravel()]
    ask(page, "sparse", "Paris")
    assert page.query_selector("#results .bars") is not None


def test_labels_of_ones_own(browser: Browser, tmp_path: Path) -> None:
    from tests.serving import serving

    labels = ("contradiction", "neutral", "entailment")
    path = bertonnx.export(save_tiny(tmp_path / "nli", labels=labels), tmp_path / "nli.onnx").path
    with serving({"nli": path}) as running, bertonnx.load(path) as model:
        page = browser.new_page()
        page.goto(running.url)
        page.wait_for_selector("#labelled:not([hidden])")
        page.fill("#labels", "travel, cooking , sport")
        ask(page, "nli", "A train to Vienna.")
        wanted = model.zero_shot(["A train to Vienna."], ["travel", "cooking", "sport"])[0]["scores"]
        shown = [cell.inner_text() for cell in page.query_selector_all("#results .bars > span")]
        best = sorted(wanted, key=wanted.__getitem__, reverse=True)
        assert shown == [part for name in best for part in (name, f"{wanted[name]:.4f}")]
        page.close()


def test_what_a_person_types_is_no_markup(page: Page) -> None:
    ask(page, "mood", "<img src=x onerror=alert(1)> <b>bold</b>")
    assert page.inner_text("#results .text") == "<img src=x onerror=alert(1)> <b>bold</b>"
    assert page.query_selector("#results img, #results b") is None


def test_the_lines_do_the_same(page: Page, server: Running, local: Mapping[str, bertonnx.Model]) -> None:
    text = "It's a \"lovely\" film; isn't it?"
    ask(page, "mood", text)
    lines = {
        node.get_attribute("data-language"): node.inner_text()
        for node in page.query_selector_all("#lines pre")
    }
    wanted = local["mood"].predict([text])
    done = subprocess.run(shlex.split(lines["curl"]), capture_output=True, check=True)
    (row,) = json.loads(done.stdout)["results"]
    assert row["label"] == wanted[0]["label"]
    # Written as short as float32 allows.
    assert {name: np.float32(score) for name, score in row["scores"].items()} == wanted[0]["scores"]
    clients = []

    def connected(*arguments: str) -> bertonnx.Client:
        url, name = arguments
        clients.append(bertonnx.Client(url, name))
        return clients[-1]

    made: Any = eval(lines["Python"], {"bertonnx": SimpleNamespace(Client=connected)})
    clients[0].close()
    assert made == wanted
    # Run by R's own tests, against a server.
    typed = json.dumps(text)
    assert lines["R"] == f'model <- bert_remote("{server.url}", "mood"); predict(model, c({typed}))'


def test_the_keyboard_is_enough(page: Page) -> None:
    page.select_option("#model", "mood")
    page.focus("#texts")
    page.keyboard.press("Control+A")
    page.keyboard.type("Typed by hand.")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#results .result")
    assert page.inner_text("#results .text") == "Typed by hand."
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "go"


def test_a_phone_shows_it_without_scrolling_sideways(browser: Browser, server: Running) -> None:
    phone = browser.new_page(viewport={"width": 360, "height": 740})
    phone.goto(server.url)
    phone.wait_for_selector("#model option", state="attached")
    for model in ("mood", "mini", "ranker"):
        ask(phone, model)
        assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    phone.close()


def test_errors_are_said(page: Page) -> None:
    page.select_option("#model", "filler")
    page.fill("#texts", "no mask here")
    page.click("#go")
    sync_api.expect(page.locator("#results")).to_contain_text("row 0: ")
    page.fill("#texts", "  ")
    page.click("#go")
    sync_api.expect(page.locator("#said")).to_have_text("type a text first")


def test_a_server_with_a_key_asks_for_it(browser: Browser, paths: dict[str, Path]) -> None:
    from tests.serving import serving

    with serving({"mood": paths["mood"]}, api_keys=("secret",)) as running:
        page = browser.new_page()
        page.goto(running.url)
        page.wait_for_selector("#locked:not([hidden])")
        assert page.inner_text("#said") == "this server needs a key"
        page.fill("#key", "secret")
        page.keyboard.press("Tab")
        page.wait_for_selector("#model option", state="attached")
        ask(page, "mood")
        assert "secret" not in page.inner_text("#lines")
        page.close()


def test_nothing_but_itself_may_run(http: Any) -> None:
    answer = http.get("/")
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert not re.search(r"(?:src|href)\s*=|https?://", answer.text)
