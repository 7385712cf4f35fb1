"""How large the page of a comparison of many items is, how long it takes to write, and Chromium to show it.

    python -m bench.pages [--items 30000]

Answers of 40 random words, three suites; a tenth of the scores changes. Needs Chromium for the last number.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

from eval_suites.results import ItemResult, SuiteResult
from eval_suites.verdict.verdict import compare
from sft_core.config.evaluate import GateSection
from tasks.pages.report import write_report_page
from tasks.verdict import compared

WORDS = [f"word{number}" for number in range(20)]
SUITES = ("facts", "sums", "format")
LOOKS = 5


def result(suite: str, items: int, drawn: random.Random, scores: list[float]) -> SuiteResult:
    """Answers to the same questions."""
    kind = "alignment" if suite == "format" else "capability"
    return SuiteResult(suite, kind, {"version": 1}, tuple(
        ItemResult(suite, f"task {at % 10}", f"{suite}/{at}", f"{at}", scores[at], {}, f"{at} {' '.join(WORDS)}?",
                   " ".join(drawn.choices(WORDS, k=40)), "target", "", f"{at}") for at in range(items)), 1.0)


def shown_s(page: Path, folder: Path) -> float:
    """Seconds until Chromium has shown the first answers, of a browser that starts cold."""
    began = time.perf_counter()
    done = subprocess.run(
        [shutil.which("chromium") or "chromium", "--headless=new", "--no-sandbox", "--disable-gpu",
         f"--user-data-dir={folder}", "--dump-dom", page.as_uri()], capture_output=True, text=True, check=True)
    assert re.search(r'<article class="item', done.stdout), "no answer is shown"
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=30_000)
    items = parser.parse_args().items
    drawn, each = random.Random(0), items // len(SUITES)
    base, tuned = {}, {}
    for suite in SUITES:
        scores = [float(drawn.random() < 0.6) for _ in range(each)]
        base[suite] = result(suite, each, drawn, scores)
        tuned[suite] = result(suite, each, drawn, [1 - one if drawn.random() < 0.1 else one for one in scores])
    found = compared(compare(base, tuned, GateSection()), base, tuned)
    with tempfile.TemporaryDirectory() as folder:
        page, began = Path(folder) / "page.html", time.perf_counter()
        write_report_page(page, "base against tuned", found)
        written = time.perf_counter() - began
        blank = Path(folder) / "blank.html"
        blank.write_text('<!doctype html><article class="item">nothing</article>', encoding="utf-8")
        took: dict[str, list[float]] = {"page": [], "blank": []}
        if shutil.which("chromium"):
            for _ in range(LOOKS):
                for one in (page, blank):
                    took[one.stem].append(shown_s(one, Path(folder) / "profile"))
        beside = sum(file.stat().st_size for file in (Path(folder) / "page-items").glob("*"))
        print(f"{items} items: page {page.stat().st_size / 1e6:.2f} MB, files beside it {beside / 1e6:.1f} MB, written "
              f"in {written:.1f} s")
        if took["page"]:
            print(f"Chromium, started for it: {median(took['page']):.2f} s until answers are shown, of which "
                  f"{median(took['blank']):.2f} s are those of an empty page (medians of {LOOKS}, alternating)")


if __name__ == "__main__":
    main()
