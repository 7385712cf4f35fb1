"""The picture in README: wins and tax of the demo with their intervals, drawn as every report draws them.

`make picture` runs the demo (or finds it whole) and writes docs/verdict.png.
"""

from __future__ import annotations

from pathlib import Path

from eval_suites.report.plot import forest_png
from eval_suites.verdict.verdict import compare
from infra.settings import read_settings
from tasks.runs import Recorded

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "verdict.png"


def main() -> None:
    """Draw the newest finished run that is called demo."""
    folders = (read_settings().workspace / "runs").glob("demo-*/summary.json")
    newest = max(folders, key=lambda file: file.stat().st_mtime).parent
    run = Recorded(newest.name, "", newest)
    base, tuned = run.results("base", texts=False), run.results("tuned", texts=False)
    PICTURE.write_bytes(forest_png(compare(base, tuned, run.config().config.gate)))
    print(f"{PICTURE}: {newest.name}")


if __name__ == "__main__":
    main()
