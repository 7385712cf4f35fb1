"""The manifest as a page for people: a data card in Markdown, with the front matter that the hub reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from sft_core.data.provenance.handed import Handed, in_words, table
from sft_core.visible import visible

SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"))
NOT_KNOWN = "not known"
LONGEST_SETTING = 100
"""Characters of one; the manifest has it whole."""


def data_card(name: str, manifest: Mapping[str, Any]) -> str:
    """The README of a data set.

    Args:
        name: of the data set.
        manifest: as `manifest.manifest` makes it.
    """
    sources: Sequence[Mapping[str, Any]] = manifest["sources"]
    return "\n".join([
        f"---\n{yaml.safe_dump(_head(name, manifest), sort_keys=False, allow_unicode=True)}---", "",
        f"# {_plain(name)}", "",
        f"Curated: {manifest['rows_out']:,} of {manifest['rows_in']:,} rows from {len(sources)} "
        f"source{'s' * (len(sources) != 1)}, made on {manifest['made']} by sft-platform; fingerprint "
        f"`{manifest['fingerprint']}`. Declared use: {manifest['use'] or 'none'}.", "",
        "## Sources", "", *_table([_source(one) for one in sources]), "",
        "## Licences", "", *_licences(sources), "",
        "## What was done", "", *(line for one in sources for line in _steps(one)),
        *_handed([Handed(**one["handed"]) for one in sources if one["handed"]]),
        "## Files", "", *_table([{"source": one["name"], "file": part["name"], "bytes": _bytes(part),
                                  "SHA-256": part["sha256"]} for one in sources for part in one["parts"]]), ""])


def _head(name: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    said = {one["licence"]["said"] for one in manifest["sources"]}
    only = said.pop() if len(said) == 1 else None
    size = next((text for most, text in SIZES if manifest["rows_out"] < most), "n>10M")
    made_by = {one["kind"] for one in manifest["sources"]}
    short = only.casefold() if only and re.fullmatch(r"[\w.+-]+", only) else "other"
    return {"pretty_name": visible(name), "license": short, "size_categories": [size],
            "tags": ["sft", *(["synthetic"] if "synthetic" in made_by else [])]}


def _source(one: Mapping[str, Any]) -> dict[str, str]:
    who = {"human": "people", "synthetic": one["generator"] or "a model", "unknown": NOT_KNOWN}[one["kind"]]
    how = ", ".join([*([f"prompts {one['prompt_version']}"] if one["prompt_version"] else []),
                     *(f"{key} {value}" for key, value in one["sampling"].items())])
    return {"source": one["name"], "from": one["path"] + (f" at {one['revision']}" if one["revision"] else ""),
            "date": one["date"] or NOT_KNOWN, "written by": f"{who} ({how})" if how else who,
            "rows read": f"{one['rows_in']:,}", "rows curated": f"{one['rows_out']:,}"}


def _handed(ends: Sequence[Handed]) -> Iterator[str]:
    """From curated rows to training, of a run."""
    if ends:
        yield from ("## From curated rows to training", "", in_words(ends), "", *_table(table(ends)), "")


def _licences(sources: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from _table([{"source": one["name"], "licence": one["licence"]["said"] or NOT_KNOWN,
                        "said by": one["licence"]["by"] or "–",
                        "forbids": ", ".join(one["licence"]["forbids"]) or (
                            "nothing that is known here" if one["licence"]["known"] else NOT_KNOWN),
                        "asks to": ", ".join(one["licence"]["asks"]) or "–"} for one in sources])
    yield from ("", "This is no legal advice. Whoever passes this data on keeps to all of these licences at once.")


def _steps(one: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"### {_plain(one['name'])}", "")
    yield from _table([{
        "step": step["name"], "settings": ", ".join(map(_setting, step["settings"].items())) or "–",
        "rows in": f"{step['rows_in']:,}", "changed": f"{step['changed']:,}", "left out": ", ".join(
            f"{why} {number:,}" for why, number in step["reasons"].items()) or "0", "rows out": f"{step['rows_out']:,}"}
        for step in one["steps"]])
    yield ""


def _bytes(part: Mapping[str, Any]) -> str:
    return NOT_KNOWN if part["bytes"] is None else f"{part['bytes']:,}"


def _setting(said: tuple[str, Any]) -> str:
    name, value = said[0], ", ".join(map(str, said[1])) if isinstance(said[1], list) else str(said[1])
    return f"{name} {value if len(value) <= LONGEST_SETTING else f'{value[:LONGEST_SETTING]}…'}"


def _table(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    if not rows:
        yield "None."
        return
    yield f"| {' | '.join(rows[0])} |"
    yield f"|{' --- |' * len(rows[0])}"
    for row in rows:
        yield f"| {' | '.join(map(_plain, row.values()))} |"


def _plain(text: str) -> str:
    """Text of others as text: it makes no links, no markup and no cells."""
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", " ".join(visible(text).split()))
