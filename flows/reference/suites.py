"""The page of the shipped suites."""

from __future__ import annotations

from typing import Any

from flows.reference.tables import table
from tasks.show import suite_rows

HEAD = """# Suites

What `eval.suites` and `--suite` take, besides `lm:TASK` for any task of lm-eval and the path of a YAML of your own.
`sft suites` prints it with what can be run here. What is scored and how: [SUITES.md](../SUITES.md). `make reference`
made this page.

*Detectable*: the smallest difference in points of 100 that is found with 80 % power at a base of 50 %; *alike*: the
same where all items of a cluster change together. Of suites without a number of items the files of the benchmark are
needed to count them.
"""


def suites_page() -> str:
    """Markdown: one table."""
    shown = ("suite", "kind", "items", "protocol", "detectable", "alike", "about")
    return f"{HEAD}\n" + table(shown, [[_cell(row, head) for head in shown] for row in suite_rows(None, None)])


def _cell(row: dict[str, Any], head: str) -> str:
    value = row[head]
    if value is None:
        return "–"
    if head == "items":
        return f"{value:,}"
    return f"`{value}`" if head == "suite" else str(value)
