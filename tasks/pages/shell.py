"""The frame of every page: one style, one script, and text of others made visible.

Without JavaScript a page has its sentence, pictures and tables; the script adds the answers of both models, sorting and
readings of curves. Nothing is loaded from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from sft_core.visible import are_numbers, visible

HERE = Path(__file__).parent


def rendered(template: str, **values: object) -> str:
    """A page by the name of its template; every text in it is made visible and escaped, except `Markup`."""
    return _environment().get_template(template).render(**values)


def embedded(value: object) -> Markup:
    """JSON for inside a `<script>`, which no text in it can end."""
    return Markup(json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


@cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True, finalize=_shown)
    made.globals.update(style=_file("page.css"), script=_file("page.js"), words=words, embedded=embedded)
    return made


def _file(name: str) -> Markup:
    return Markup((HERE / name).read_text("utf-8"))


def _shown(value: object) -> object:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def words(rows: Sequence[Mapping[str, object]]) -> set[str]:
    """Heads of the columns that hold words: they stand on the left, numbers on the right."""
    return {head for head in rows[0] if not are_numbers(_plain(row[head]) for row in rows)}


def _plain(cell: object) -> str:
    return cell.striptags() if isinstance(cell, Markup) else str(cell)
