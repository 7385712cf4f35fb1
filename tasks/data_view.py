"""What a curation came to, as tables for the terminal, a page and Prefect. A step, a flaw or a part of `curation.json`
that is new appears by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sft_core.conversation import Why
from sft_core.data.curate.scores import QUANTILES
from sft_core.data.ledger import POLICY

if TYPE_CHECKING:  # it brings the templates, and these transformers
    from sft_core.data.mix.plan import Mixed

Row = Mapping[str, object]
ALL = "all"
"""In place of a source: all of them together."""
NONE = "–"
RATES = ("recall", "rate", "share", "interval")
"""What is shown in percent, where it is a number between 0 and 1."""
SHARES = (("planted", "found"), ("rows", "with_decoys"))
"""Keys of which the second is a part of the first."""
TITLES = {"recall.recalls": "Evaluation items that were changed and planted in this data, and how many are found",
          "recall.false": "Rows of this data in which items are found, and in which items that nobody asks are",
          "judge": "Rows that the judge was asked about, and what came of it",
         "selection": "What was selected, beside a random draw of the same size"}
"""Parts of `curation.json` that have more words than their key."""

FINDS = ("a row may have several finds; the step \"personal data\" counts rows, with those that later steps leave out")
NOTES = {"recall.recalls": "an item with fewer than seven telling words or pairs of words is too short to be found "
                           "once it is changed, and stands here as planted and not found"}
"""How parts of `curation.json` are read."""
WRITERS = {"human": "people", "synthetic": "a model", "unknown": "not known"}
COMMON = 6
"""Languages of a source that are shown by themselves."""


class Part(NamedTuple):
    """A table with its title, and a line that says how it is read."""

    title: str
    rows: list[Row]
    note: str = ""


def way(sources: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row for every source and step, and for every step of all sources: rows in, with other texts, left out, out."""
    names = list(dict.fromkeys(step["name"] for one in sources for step in one["steps"]))
    together = [_added(name, [step for one in sources for step in one["steps"] if step["name"] == name])
                for name in names]
    said = [(one["name"], one["steps"]) for one in sources] + ([(ALL, together)] if len(sources) > 1 else [])
    return [{"source": name, "step": step["name"], "in": f"{step['rows_in']:,}", "changed": f"{step['changed']:,}",
             "left out": f"{step['rows_in'] - step['rows_out']:,}", "out": f"{step['rows_out']:,}",
             "why": reasons_of(step)} for name, steps in said for step in steps]


def reasons_of(step: Mapping[str, Any]) -> str:
    """Why rows went, most first."""
    return ", ".join(f"{why} {count:,}" for why, count in Counter(step["reasons"]).most_common())


def totals(sources: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Rows that were read, and conversations that are left."""
    return (sum(one["steps"][0]["rows_in"] for one in sources), sum(one["steps"][-1]["rows_out"] for one in sources))


def parts(curation: Mapping[str, Any]) -> Iterator[Part]:
    """All tables but the way, those without rows left out."""
    sources = curation["sources"]
    yield from (one for one in (
        Part("Texts put right: conversations by what was wrong", _counted(sources, lambda one: one["changed"])),
        Part("Flaws of conversations, left out or not", _counted(sources, lambda one: one["flaws"])),
        Part("Personal data and secrets: finds in all rows that were read",
             _counted(sources, lambda one: one["personal"]["found"]), FINDS),
        Part("Personal data and secrets: finds that became placeholders, in the rows that are left at the end",
             _counted(sources, lambda one: one["personal"]["redacted"]), FINDS),
        Part("Languages of answers, before and after", languages(sources),
             "und: nothing that tells, as of numbers, names and code"),
        Part("Scores of rows, before and after", scores(sources), "per cent: this share of the rows is at or below; "
             "without: rows that have no such score, or of which it was not asked"),
        *(part for key, value in curation.items() if key != "sources" for part in _further(key, value)),
    ) if one.rows)


def languages(sources: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Of every source and language rows read and kept, with their shares of the source."""
    found: list[Row] = []
    for one in (*sources, *([_all_languages(sources)] if len(sources) > 1 else [])):
        read, kept = one["languages"]["read"], one["languages"]["kept"]
        ordered = sorted(read, key=lambda name: (-read[name], name))
        named = [(name, [name]) for name in ordered[:COMMON]]
        rest = ordered[COMMON:]
        for name, some in [*named, *([(f"{len(rest)} others", rest)] if rest else [])]:
            before, after = (sum(side.get(each, 0) for each in some) for side in (read, kept))
            found.append({"source": one["name"], "language": name, "before": f"{before:,}",
                          "share before": in_percent(before, sum(read.values())), "after": f"{after:,}",
                          "share after": in_percent(after, sum(kept.values()))})
    return found


def scores(sources: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Of every source and score how it spreads over the rows read and kept."""
    return [{"source": one["name"], "score": name, "of": f"rows {when}",
             **{key: _shown(key, said[key]) for key in ("rows", "without", *QUANTILES)}}
            for one in sources for name, both in one["scores"].items() for when, said in both.items()]


def licences(manifest: Mapping[str, Any]) -> list[Row]:
    """Of every source its licence, who says so, what it forbids and asks, who wrote it and when."""
    return [{"source": one["name"], "licence": one["licence"]["said"] or "not known",
             "said by": one["licence"]["by"] or "–",
             "forbids": ", ".join(one["licence"]["forbids"]) or ("–" if one["licence"]["known"] else "not known"),
             "asks to": ", ".join(one["licence"]["asks"]) or "–",
             "written by": one["generator"] or WRITERS[one["kind"]],
             "date": one["date"] or "not known"} for one in manifest["sources"]]


def mixture(mixed: Sequence[Mixed]) -> list[Row]:
    """What a mixture wanted and what the epochs of a run bring."""
    return [{"of": f"{one.what} {one.name}", "there": f"{one.before:.1%}", "wanted": _wanted(one.wanted),
             "reached": f"{one.share:.1%}", "uses": f"{one.rows:,}", "trained tokens": f"{one.trained_tokens:,}",
             "examples used": f"{one.used:,} of {one.examples:,}", "at most": f"{one.most_used:,} times"}
            for one in mixed]


def in_short(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    """The way of every source in a line."""
    return [f"{one['name']}: {one['steps'][0]['rows_in']:,} rows read" + "".join(
        f", {step['name']} −{step['rows_in'] - step['rows_out']:,}" for step in one["steps"]
        if step["rows_in"] != step["rows_out"]) + f"; {one['steps'][-1]['rows_out']:,} curated" for one in sources]


def unusable(sources: Sequence[Mapping[str, Any]]) -> int:
    """Rows that cannot be used, without those left out on purpose."""
    return sum(count for one in sources for step in one["steps"] for why, count in step["reasons"].items()
               if Why(why) not in POLICY)


def _wanted(ends: tuple[float, float] | None) -> str:
    if ends is None:
        return "–"
    low, high = ends
    return f"{low:.1%}" if low == high else " and ".join(
        [*([f"at least {low:.1%}"] if low > 0 else []), *([f"at most {high:.1%}"] if high < 1 else [])]) or "–"


def _added(name: str, steps: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    reasons: Counter[str] = sum((Counter(step["reasons"]) for step in steps), Counter())
    return {"name": name, "reasons": reasons,
            **{key: sum(step[key] for step in steps) for key in ("rows_in", "rows_out", "changed")}}


def _counted(sources: Sequence[Mapping[str, Any]], counts: Any) -> list[Row]:
    """A row for each source, a column for each kind; nothing where there is none."""
    kinds = [kind for kind, _ in sum((Counter(counts(one)) for one in sources), Counter()).most_common()]
    return [{"source": one["name"], **{kind: f"{counts(one).get(kind, 0):,}" for kind in kinds}}
            for one in sources if kinds]


def _all_languages(sources: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return {"name": ALL, "languages": {when: sum((Counter(one["languages"][when]) for one in sources), Counter())
                                       for when in ("read", "kept")}}


def in_percent(count: int, of: int) -> str:
    """A share; a dash where there is nothing to have one of."""
    return f"{count / of:.1%}" if of else "–"


def _further(name: str, value: object) -> Iterator[Part]:
    """Plain data as tables: a list by its entries, nested keys by a row for each, others by one value; what holds lists
    of its own, part by part."""
    if isinstance(value, Mapping) and any(_is_table(one) for one in value.values()):
        for inner, deeper in value.items():
            yield from _further(f"{name}.{inner}", deeper)
        return
    if _is_table(value):
        rows = [dict(_flat(_with_shares(one))) for one in value]  # type: ignore[attr-defined]
    elif isinstance(value, Mapping) and all(isinstance(one, Mapping) for one in value.values()):
        rows = [{"of": _words(of), **dict(_flat(_with_shares(one)))} for of, one in value.items()]
    elif isinstance(value, Mapping):
        rows = [dict(_flat(_with_shares(value)))]
    else:
        rows = [] if value in (None, [], ()) else [{"value": _shown(name, value)}]
    heads = list(dict.fromkeys(head for row in rows for head in row))
    yield Part(TITLES.get(name, _words(name).capitalize()), [{head: row.get(head, NONE) for head in heads}
                                                             for row in rows], NOTES.get(name, ""))


def _is_table(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _with_shares(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """With what was found as a share of what was planted or looked at; its two ends as one interval."""
    of, hits = next(((row[of], row[hits]) for of, hits in SHARES if of in row and hits in row), (None, None))
    share = {} if of is None else {"share": hits / of if of else None}
    ends = {"95 % interval": [row["low"], row["high"]]} if {"low", "high"} <= row.keys() else {}
    return {**{key: one for key, one in row.items() if not ends or key not in ("low", "high")}, **share, **ends}


def _flat(value: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for name, one in value.items():
        if isinstance(one, Mapping):
            yield from ((f"{_words(name)} {_words(inner)}", _shown(inner, deeper)) for inner, deeper in one.items())
        else:
            yield _words(name), _shown(name, one)


def _words(name: str) -> str:
    return name.replace("_", " ").replace(".", ": ")


def _shown(name: str, value: object) -> str:
    if value is None:
        return NONE
    if isinstance(value, list | tuple):
        return " to ".join(_shown(name, one) for one in value) if len(value) == 2 else \
            ", ".join(_shown(name, one) for one in value)
    if isinstance(value, float):
        return f"{value:.1%}" if any(rate in name for rate in RATES) and 0 <= value <= 1 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
