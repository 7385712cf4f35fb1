"""Pages: whole by themselves, true to what models say and never obeying it, readable with and without JavaScript."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from eval_suites.results import SuiteResult
from eval_suites.verdict.known import NOTHING_KNOWN, Known, Names
from eval_suites.verdict.verdict import compare
from sft_core.config.evaluate import GateSection
from tasks.pages import items as paged
from tasks.pages.curves import curves
from tasks.pages.items import items
from tasks.pages.ledger import ways
from tasks.pages.report import write_report_page
from tasks.verdict import compared

Make = Callable[..., SuiteResult]
Sides = tuple[dict[str, SuiteResult], dict[str, SuiteResult]]
EVIL = "</pre></script><script>alert('x')</script>&amp;\ud800\x1b[31m\u202e"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def sides(make_result: Make) -> Sides:
    """Facts get worse, format improves; one item of facts has no score on either side."""
    base = {"facts": make_result([1.0] * 60 + [0.0] * 39 + [None]),
            "format": make_result([0.0] * 40 + [1.0] * 10, suite="format", kind="alignment")}
    tuned = {"facts": make_result([0.0] * 60 + [0.0] * 38 + [1.0, None]),
             "format": make_result([1.0] * 50, suite="format", kind="alignment")}
    return base, tuned


def with_item(result: SuiteResult, at: int, **changes: Any) -> SuiteResult:
    return replace(result, items=tuple(one._replace(**changes) if number == at else one
                                       for number, one in enumerate(result.items)))


class Seen(HTMLParser):
    """What a browser would see: tags with their attributes, the text outside of scripts, and the data of the items."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.data, self.inside = "", "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag if tag in ("script", "style") else self.inside
        if dict(attrs).get("id") == "items-data":
            self.inside = "data"

    def handle_endtag(self, tag: str) -> None:
        self.inside = "" if tag in ("script", "style") else self.inside

    def handle_data(self, data: str) -> None:
        if self.inside == "data":
            self.data += data
        elif not self.inside:
            self.text += data


def written(sides: Sides, folder: Path, known: Known = NOTHING_KNOWN) -> Path:
    base, tuned = sides
    found = compared(compare(base, tuned, GateSection(max_tax=2.0), known), base, tuned)
    write_report_page(folder / "page.html", "base against tuned", found)
    return folder / "page.html"


def test_the_page_says_the_verdict_without_a_script_and_loads_nothing(sides: Sides, tmp_path: Path) -> None:
    text = written(sides, tmp_path).read_text("utf-8")
    seen = Seen(text)
    assert "Gate: fail." in seen.text
    assert '<td class="text">worse (proved)</td>' in text  # words on the left, numbers on the right
    assert "<td>+59.6</td>" in text
    linked = [found[name] or "" for _, found in seen.tags for name in ("src", "href") if name in found]
    assert all(link.startswith(("#", "data:,")) for link in linked), linked
    assert "url(" not in text.partition("<svg")[0]
    assert [tag for tag, _ in seen.tags].count("h1") == 1
    anchors = {link[1:] for link in linked if link.startswith("#")}
    assert anchors <= {found.get("id") for _, found in seen.tags}
    ids = [found["id"] for tag, found in seen.tags if "id" in found and tag not in ("path", "clippath")]
    assert len(ids) == len(set(ids))


def test_what_models_say_is_data_and_never_markup(sides: Sides, tmp_path: Path) -> None:
    base, tuned = sides
    tuned["format"] = with_item(tuned["format"], 0, prompt=EVIL, target=EVIL, answer=EVIL, why=EVIL, task=EVIL)
    page = written((base, tuned), tmp_path, Known(names=Names(f"base {EVIL}", "tuned")))
    seen = Seen(page.read_text("utf-8"))
    assert [tag for tag, _ in seen.tags].count("script") == 2  # the page's own, and the items
    told = json.loads(seen.data)
    shown = next(one for one in told["items"] if "alert" in one["prompt"])
    assert shown["answers"][1].startswith("</pre></script><script>alert('x')</script>&amp;")
    assert not re.search("[\x00-\x08\x1b\u202e\ud800]", page.read_text("utf-8", "surrogatepass"))


def test_changes_come_first_and_what_does_not_fit_is_in_files_beside_it(
        sides: Sides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = items(*sides, "beside")
    assert not whole.files
    kinds = [one["change"] for one in whole.inside]
    assert {*kinds[:101]} == {"lost", "gained"}
    assert kinds[101] == "unscored"
    assert {*kinds[102:]} == {"same"}
    monkeypatch.setattr(paged, "EMBEDDED_BYTES", 4000)
    monkeypatch.setattr(paged, "ITEMS_PER_FILE", 20)
    some = items(*sides, "beside")
    assert 0 < len(some.inside) < 150
    assert len(some.inside) + some.outside == 150
    some.write(tmp_path)
    held = [one for name in some.files
            for one in json.loads((tmp_path / name).read_text("utf-8").removeprefix("sftItems(").rstrip(");\n"))]
    assert {one["id"] for one in held} | {one["id"] for one in some.inside} == {one["id"] for one in whole.inside}
    assert all(len(some) <= 20 for some in some.files.values())


def in_browser(page: Path, script: str, folder: Path) -> str:
    """The text of a page as Chromium shows it after a script of the reader's has run."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    probe = page.with_name("probe.html")
    ours = (f"<script>{script}; setTimeout(() => {{"
            "document.title = document.getElementById('answers').innerText; }, 1000)</script></body>")
    probe.write_text(page.read_text("utf-8").replace("</body>", ours), encoding="utf-8")
    done = subprocess.run(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
         "--virtual-time-budget=4000", "--dump-dom", probe.as_uri()],
        capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert found, done.stderr
    return found[1]


def test_a_reader_chooses_and_pages_through_the_answers(
        sides: Sides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = sides
    base["format"] = with_item(base["format"], 3, answer="The answer is 12 apples.", metrics={"refused": 0.0})
    tuned["format"] = with_item(tuned["format"], 3, answer="The answer is 13 apples.", metrics={"refused": 1.0})
    monkeypatch.setattr(paged, "EMBEDDED_BYTES", 30_000)
    page = written((base, tuned), tmp_path)
    chosen = ("const set = (id, value) => { const one = document.getElementById(id); one.value = value; "
              "one.dispatchEvent(new Event('change')); }; set('refusal', 'newly')")
    refused = in_browser(page, chosen, tmp_path)
    assert re.search(r"^1 of \d+ items", refused, re.MULTILINE)
    assert "format/3 · 0 → 1" in refused.replace("q/3", "format/3")
    marked = in_browser(page, chosen + "; document.getElementById('items').prepend("
                        "[...document.querySelectorAll('mark')].map(one => one.textContent).join('|'))", tmp_path)
    assert "12|13" in marked
    assert "page 2 of " in in_browser(page, "document.querySelector('#below [data-turn=\"1\"]').click()", tmp_path)
    printed = in_browser(page, "dispatchEvent(new Event('beforeprint')); document.getElementById('items').prepend("
                         "`${document.querySelectorAll('details:not([open])').length} folded, "
                         "${document.getElementById('printed').textContent}`)", tmp_path)
    assert "0 folded, Printed: 20 of 150 items; the page itself has all of them." in printed
    assert "150 of 150 items" in in_browser(page, "document.getElementById('load').click()", tmp_path)


def test_curves_are_drawn_from_events_a_kill_has_broken(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    lines = [{"event": "step", "step": at, "loss": 2.0 / at, "sft": 2.0 / at, "kl": None, "lr": 1e-3, "time": at}
             for at in (1, 2, 3, 2, 3, 4)]  # two steps again after a kill
    lines.insert(2, {"event": "validation", "step": 2, "loss": 0.5, "time": 3})
    events.write_text("\n".join(map(json.dumps, lines)) + '\n{"event": "st', encoding="utf-8")
    loss, rate = curves(events)
    assert [said for _, said in loss.read] == [
        "step 1: SFT 2", "step 2: SFT 1, held-out 0.5", "step 3: SFT 0.6667", "step 4: SFT 0.5"]
    places = [at for at, _ in loss.read]
    assert places == sorted(places)
    assert 0 < places[0] < places[-1] < 1
    assert rate.title == "Learning rate"
    assert 'aria-label="Learning rate by step"' in rate.picture
    assert "#000000" not in loss.picture
    assert curves(tmp_path / "none.jsonl") == []


def test_the_divergence_has_an_axis_of_its_own(tmp_path: Path) -> None:
    """A KL of 0.001 made the axis of the losses logarithmic, on which they were a flat line."""
    events = tmp_path / "events.jsonl"
    events.write_text("\n".join(json.dumps({"event": "step", "step": at, "loss": 5.0 - at, "sft": 4.9 - at, "kl": 1e-3})
                                for at in (1, 2, 3)), encoding="utf-8")
    loss, divergence = curves(events)
    assert loss.read[0][1] == "step 1: all, as minimised 4, SFT 3.9"
    assert (divergence.title, divergence.read[0][1]) == (
        "KL to the base (nats per token)", "step 1: KL to the base 0.001")
    assert not re.search(r">\d\.5</text>", divergence.picture), "there is no step between two"


def test_an_answer_of_white_space_can_be_seen(sides: Sides) -> None:
    base, tuned = sides
    tuned["format"] = with_item(tuned["format"], 0, answer="\n" * 8)
    changed_one = tuned["format"].items[0].item_id
    told = next(one for one in items(base, tuned, "beside").inside
                if (one["suite"], one["id"]) == ("format", changed_one))
    assert told["answers"][1] == "(8 characters, white space alone)"


def test_a_logarithmic_axis_can_be_read(tmp_path: Path) -> None:
    """Between 0.4 and 9 it had one label, 1."""
    events = tmp_path / "events.jsonl"
    events.write_text("\n".join(json.dumps({"event": "step", "step": at, "loss": 9.0 / at, "grad_norm": 10.0 ** -at})
                                for at in range(1, 23)), encoding="utf-8")
    loss, gradient = curves(events)
    assert {"0.5", "1", "2", "5"} <= set(re.findall(r">([\d.]+)</text>", loss.picture))
    assert len(set(re.findall(r">([\d.e-]+)</text>", gradient.picture))) < 20


def test_the_ledger_is_a_way_from_rows_to_trained_tokens() -> None:
    source = {"source": "s", "read": 10, "rejected": {"too_long": 1, "empty_assistant": 3}, "examples": 6,
              "truncated": 0, "split": 0, "validation": 2, "held_out": 0, "tokens": 100, "trained_tokens": 40}
    way, = ways({"sources": [source], "replay": []})
    assert [(step.says, step.amount, step.unit, step.share, step.left_out) for step in way.steps] == [
        ("read", 10, "rows", 1.0, False), ("empty assistant", 3, "rows", 0.3, True), ("too long", 1, "rows", 0.1, True),
        ("became examples", 6, "examples", 0.6, False), ("of them for validation", 2, "examples", 0.2, False),
        ("tokens", 100, "tokens", 1.0, False), ("tokens that are trained", 40, "tokens", 0.4, False)]
    way, = ways({"sources": [source | {"read": 20, "held_out": 10}], "replay": []})
    assert ("of held-out tasks", 10, "rows", 0.5, False) in way.steps
