"""The page of every field of synthesis."""

from __future__ import annotations

from collections.abc import Iterator

from flows.reference.models import Field, fields_of_synthesis

HEAD = """# Synthesis: every field

What `sft synth CONFIG` reads: a YAML file, or the name of a shipped one (`reject`, `self-instruct`). `--set` overrides
fields as it does for `sft run`, and all problems are told at once. Sections that an experiment has too (models,
endpoints, sources, tracking) are told in [its own page](configuration.md). `make reference` made this page.
"""


def synthesis_page() -> str:
    """Markdown: a heading for each section, and below it for each of its fields."""
    return HEAD + "".join(f"\n{line}\n" for field in fields_of_synthesis() for line in _told(field))


def _told(field: Field) -> Iterator[str]:
    yield f"{'##' if '.' not in field.name and field.section else '###'} `{field.name}`"
    kind = [] if field.section and field.kind == "section" else [field.kind]
    plain = field.default in ("none", "as its fields say")
    default = "**required**" if field.default == "required" else \
        f"default: {field.default if plain else f'`{field.default}`'}"
    yield " · ".join([*kind, default])
    yield " ".join(field.says.split())
