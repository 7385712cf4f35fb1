"""Prepared examples and suites in a form that a person can read."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from eval_suites.suites import load_suites
from sft_core.config.experiment import ExperimentConfig
from sft_core.errors import DataError
from sft_core.stage import write_text
from tasks.stages import Done, Workspace

if TYPE_CHECKING:
    from sft_core.render import Example

STYLE = """body{font:15px/1.5 system-ui;margin:2em auto;max-width:60em;color:#222}
pre{white-space:pre-wrap;border:1px solid #ddd;padding:1em;border-radius:6px}
.trained{background:#c9f2cf}.context{color:#777}.special{color:#0a7a8a;font-weight:600}"""


def shown_rows(config: ExperimentConfig, prepared: Done, place: Workspace, span: tuple[int, int]) -> Iterator[Text]:
    """Some training examples with trained tokens green, context dim and control tokens cyan.

    Args:
        span: first example, counted from 0, and how many.

    Raises:
        DataError: there is no such example.
    """
    from sft_core.show import spans_of, to_rich

    tokenizer = _tokenizer(config, place)
    for head, example in _examples(prepared, span):
        yield Text.assemble((f"\n{head}\n", "bold"), to_rich(spans_of(example, tokenizer)))


def page(config: ExperimentConfig, prepared: Done, place: Workspace, file: Path, span: tuple[int, int]) -> None:
    """The same as a page that stands alone.

    Raises:
        DataError: there is no such example.
    """
    from sft_core.show import spans_of, to_html

    tokenizer = _tokenizer(config, place)
    parts = [f"<h3>{html.escape(head)}</h3>{to_html(spans_of(example, tokenizer))}"
             for head, example in _examples(prepared, span)]
    legend = '<p><span class="trained">trained</span> <span class="context">context</span> ' \
             '<span class="special">control token</span></p>'
    write_text(file, f"<!doctype html><meta charset=utf-8><title>{html.escape(config.name)}: training examples</title>"
                     f"<style>{STYLE}</style><h1>{html.escape(config.name)}</h1>{legend}{''.join(parts)}\n")


def suite_rows() -> list[dict[str, object]]:
    """One row per shipped suite."""
    return [
        {"suite": one.name, "kind": one.kind, "engine": one.engine, "about": one.about}
        for one in load_suites().values()
    ]


def _examples(prepared: Done, span: tuple[int, int]) -> list[tuple[str, Example]]:
    from sft_core.prepare import load_examples

    first, count = span
    examples = load_examples(prepared.folder / "train.parquet")
    if first >= len(examples):
        raise DataError(f"there is no training example {first}; there are {len(examples)}, counted from 0")
    chosen = examples[first : first + count]
    return [(f"#{first + n} · {e.origin} · {len(e.input_ids)} tokens", e) for n, e in enumerate(chosen)]


def _tokenizer(config: ExperimentConfig, place: Workspace) -> Any:
    from sft_core.models import load_tokenizer, locate

    return load_tokenizer(config.model, locate(config.model, place.mirror))
