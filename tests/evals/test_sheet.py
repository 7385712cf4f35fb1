"""The sheet for people, labelled in a real browser; skipped where there is no Chromium."""

import json
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from eval_suites.judge.human import as_html, read_labels, sheet_of
from eval_suites.results import ItemResult, SuiteResult

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-quic")
HOSTILE = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\"> answer"
LABELLER = """
<script>
  const say = text => { const told = document.createElement("pre"); told.id = "told"; told.textContent = text;
                        document.body.append(told); };
  URL.createObjectURL = blob => { blob.text().then(say); return "about:blank"; };
  HTMLAnchorElement.prototype.click = () => {};
  ["A", "B", "tie"].forEach((label, at) => sections[at].querySelector(`input[value="${label}"]`).click());
  document.getElementById("save").click();
</script>
"""


def results(answer: str) -> SuiteResult:
    items = tuple(ItemResult("open", "t", f"i{n}", f"i{n}", None, {"answered": 1.0}, "?", f"{answer} {n}",
                             json.dumps({"questions": ["Is this <b>bold</b>?"]}), "not judged", f"asked {n}")
                  for n in range(4))
    return SuiteResult("open", "alignment", {"v": 1}, items, 1.0)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_labels_given_in_a_browser_come_back_and_answers_stay_text(tmp_path: Path) -> None:
    sheet, page = sheet_of(results(HOSTILE), results('tuned, "quoted"')), tmp_path / "sheet.html"
    page.write_text(as_html(sheet).replace("</body>", LABELLER + "</body>"), encoding="utf-8")
    home = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run([str(BROWSER), *QUIET, home, "--virtual-time-budget=3000",
                           "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    shown = done.stdout
    assert "<title>Which answer is better?</title>" in shown
    assert "3 of 4 labelled" in shown
    saved = unescape(shown.partition('<pre id="told">')[2].partition("</pre>")[0])
    first, second, third, fourth = (row.item_id for row in sheet.rows)
    assert read_labels(saved, sheet, "page") == {first: "A", second: "B", third: "tie"}
    assert f'"{fourth}",""' in saved
