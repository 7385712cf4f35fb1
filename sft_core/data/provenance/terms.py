"""What a licence says → what it forbids and asks for. `licences.yaml` is the table; nothing in it is legal advice.

A restriction counts wherever it is named. A permission counts only where nothing else is said, as a text such as "MIT
for the code, the data is another matter" permits nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import yaml

from sft_core.config.provenance import Use
from sft_core.errors import DataError

TABLE = Path(__file__).with_name("licences.yaml")
SHOWN = 90
"""Characters of a licence in words in a refusal."""
_SAME = (  # spellings of one thing, in the order in which they are replaced
    (r"creative[ -]commons", "cc"), (r"(cc[ -])?attribution", "cc-by"), (r"non[ -]?commercial", "nc"),
    (r"share[ -]?alike", "sa"), (r"no[ -]?deriv(ative)?s", "nd"), (r"[\s_/-]+", "-"),
)
_FILLING = re.compile(r"\b(licen[cs]es?|agreement|the|version|v|international|unported|generic|universal|dedication|"
                      r"new|revised|simplified|or|later|only)\b|\bv?\d+(\.\d+)*\b")
"""Words beside the name of a licence that say nothing more."""


class Terms(NamedTuple):
    """What one or several licences say together."""

    names: tuple[str, ...]  # as the table calls them
    forbids: frozenset[str]  # uses
    asks: tuple[str, ...]  # of whoever passes something on
    see: tuple[str, ...]


def terms_of(said: str | None) -> Terms | None:
    """Terms of a licence, an id or a name or words about it; None where it is not known, or not known well enough.

    Args:
        said: of a file or a page, word by word.
    """
    spelled = _spelled(said or "")
    found = list(re.finditer(_pattern(), spelled))
    if not found:
        return None
    rows = [_rows()[match[0]] for match in found]
    terms = Terms(tuple(dict.fromkeys(match[0] for match in found)),
                  frozenset(use for row in rows for use in row.get("forbids", ())),
                  tuple(dict.fromkeys(wish for row in rows for wish in row.get("asks", ()))),
                  tuple(dict.fromkeys(row["see"] for row in rows)))
    rest = _FILLING.sub("", re.sub(_pattern(), "", spelled))
    return terms if terms.forbids or not re.search(r"[^\W\d_]", rest) else None


def terms_of_generator(name: str | None) -> Terms | None:
    """Terms of the maker of a model for what it wrote; None where the table knows none."""
    model = (name or "").casefold().replace(" ", "-").rpartition("/")[2]
    for row in _table()["generators"]:
        if model.startswith(tuple(row["names"])) and not model.startswith(tuple(row.get("but", ("\0",)))):
            return terms_of(row["licence"])
    return None


def check_use(source: str, use: Use, *, licence: str | None, generator: str | None = None) -> None:
    """Refuse a source that must not be used so.

    Args:
        licence: what is said of it; None where nothing is.
        generator: the model that wrote it.

    Raises:
        DataError: its licence, or the terms of who made the generator, forbid this use; the licence is not known and
            the use is commercial.
    """
    terms, makers = terms_of(licence), terms_of_generator(generator)
    if terms is not None and use in terms.forbids:
        several = "give the source the `licence:` that is its own, by its identifier, where that text is of several " \
                  "files, " if len(terms.names) > 1 else ""
        said = shorten(licence or "", SHOWN, placeholder=" …")
        raise DataError(f"the source {source} is under {said}, which forbids {use} use "
                        f"({', '.join(_forbidding(terms, use))}), and data.use is {use}; take the source "
                        f"out, set data.use to what it allows, {several}or give it `licence: own` where you have "
                        "another agreement")
    if makers is not None and use in makers.forbids:
        raise DataError(f"the source {source} was written by {generator}, whose maker forbids {use} use of it "
                        f"({', '.join(makers.see)}), and data.use is {use}; take the source out, or set data.use to "
                        "what it allows")
    if use == "commercial" and terms is None:
        known = f"{licence!r} is none that is known here" if licence else "nothing says what it is"
        raise DataError(f"data.use is commercial, and the licence of the source {source} is not known: {known}; give "
                        "data.sources.licence, `own` for data of yours or an agreement of yours, or take the source "
                        "out")


def _forbidding(terms: Terms, use: Use) -> list[str]:
    """Where it stands that this use is forbidden."""
    return list(dict.fromkeys(str(_rows()[name]["see"]) for name in terms.names
                              if use in _rows()[name].get("forbids", ())))


def _spelled(said: str) -> str:
    text = said.casefold()
    for words, same in _SAME:
        text = re.sub(words, same, text)
    return text


@cache
def _table() -> Mapping[str, Any]:
    found: Mapping[str, Any] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return found


@cache
def _rows() -> Mapping[str, Mapping[str, Any]]:
    return {name: row for row in _table()["licences"] for name in row["names"]}


@cache
def _pattern() -> str:
    """Any name, the longest first."""
    names = sorted(_rows(), key=len, reverse=True)
    return r"(?<![a-z0-9])(?:" + "|".join(map(re.escape, names)) + r")(?![a-z0-9+])"
