"""The stage `prepare`: sources → checked, curated, rendered and split examples on disk, and the ledger of all rows."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from sft_core.config.data import DataSection, SourceSection, TemplateSection
from sft_core.conversation import Conversation, Origin, Rejected, Why
from sft_core.data.curate import dedupe
from sft_core.data.curate.decontaminate import EvalItem, ItemIndex, contaminated, decontaminate, ids_by_suite
from sft_core.data.curate.words import texts
from sft_core.data.formats import to_text
from sft_core.data.holdout import split
from sft_core.data.intake import Intake, take_in, tallied
from sft_core.data.ledger import Ledger, SourceCount, Split, Totals
from sft_core.data.show import spans_of
from sft_core.data.sources import name_of, read_rows
from sft_core.errors import DataError
from sft_core.progress import progress
from sft_core.stage import write_json
from sft_core.stopping import check
from sft_core.templates.choose import choose
from sft_core.templates.render import IGNORE, Example, Renderer, pieces, render_text
from sft_core.templates.template import Template
from sft_core.templates.thoughts import thinks
from sft_core.templates.truncate import Fitted, fit

log = logging.getLogger("sft")
SAMPLES = 20
"""Examples shown in `sample.jsonl`."""

_EXAMPLES = pa.schema([("input_ids", pa.list_(pa.int32())), ("targets", pa.list_(pa.int32())),
                       ("source", pa.string()), ("file", pa.string()), ("line", pa.int64())])
_REJECTED = pa.schema([("why", pa.string()), ("detail", pa.string()),
                       ("source", pa.string()), ("file", pa.string()), ("line", pa.int64())])


class _Look(NamedTuple):
    """What to look for in replay text, and whether text that holds it goes."""

    items: ItemIndex
    drop: bool


class _Replay(NamedTuple):
    examples: list[Example]
    rejected: list[Rejected]
    counts: list[SourceCount]
    found: list[EvalItem]


class _Rendered(NamedTuple):
    fitted: dict[Origin, Fitted]
    rejected: list[Rejected]


def prepare(  # noqa: PLR0913  (the inputs of a stage, all by keyword)
    data: DataSection, template: TemplateSection, *, tokenizer: PreTrainedTokenizerBase,
    replay: tuple[SourceSection, ...], eval_items: Sequence[EvalItem], seed: int, mirror: Path | None, out: Path,
) -> Ledger:
    """Prepare training data into the existing, empty folder `out`.

    Written are `train.parquet`, `validation.parquet`, `replay.parquet` (`load_examples` reads them),
    `rejected.parquet`, `ledger.json`, `contaminated.json` (suite → ids of its items in what is trained on),
    `template.json`, `sample.jsonl`, and in `sources/` what `tiny:…` stands for.

    Args:
        data, template: their sections of the configuration.
        tokenizer: the base model's.
        replay: sources of raw text, none when replay is off.
        eval_items: what to look for in conversations and replay text, see `data.decontaminate`.
        seed: of the split.
        mirror: folder that stands for the hub, or None.

    Raises:
        DataError: a source cannot be read; more than `data.max_rejected_share` of the rows cannot be used; an example
            is too long under `too_long: fail`; no example is left.
        TemplateError: the template cannot be used with this tokenizer.
    """
    chosen = choose(template, tokenizer)
    renderer = Renderer(chosen, tokenizer, template)
    items = ItemIndex(eval_items if data.decontaminate != "off" else ())
    _refuse_equal_names([*data.sources, *replay])

    read = take_in(data.sources, out / "sources", mirror, data.repair)
    kept, curated = _curate(read.conversations, data, items)
    rendered = _render(kept, renderer, data)
    rejected = [*read.rejected, *curated, *rendered.rejected]
    _tell(read, rejected, len(read.rejected))
    used = [c for c in kept if c.origin in rendered.fitted]
    halves = split(used, data.validation_share, seed)
    train, validation = ([rendered.fitted[c.origin] for c in half] for half in halves)
    dropped = data.decontaminate == "drop"
    replayed = _replay(replay, tokenizer, data.max_tokens, _Look(items, dropped), out / "sources", mirror)
    trained_on = [] if dropped else [item for c in halves[0] for text in texts(c) for item in items.find_all(text)]
    examples: dict[Split, list[Example]] = {
        "train": _examples(train), "validation": _examples(validation), "replay": replayed.examples}
    thoughts = Counter(c.origin.source for c in used if any(map(thinks, c.turns)))
    repaired = Counter(c.origin.source for c in used if c.repaired)
    ledger = Ledger(
        tuple(replace(_count(name, read, rejected, train, validation, renderer.stop_ids), repaired=repaired[name],
                      thoughts=thoughts[name] if template.thinking == "drop" else 0) for name in read.formats),
        tuple(replayed.counts), {name: _totals(rows) for name, rows in examples.items()},
    )
    _write(out, ledger, chosen, examples, [*rejected, *replayed.rejected])
    write_json(out / "contaminated.json", ids_by_suite([*trained_on, *replayed.found]))
    _write_samples(out / "sample.jsonl", examples["train"][:SAMPLES], tokenizer)
    _check(ledger, data, rejected, out)
    _check_sources([*zip(data.sources, ledger.sources, strict=True), *zip(replay, ledger.replay, strict=True)], out)
    return ledger


def load_examples(path: Path) -> list[Example]:
    """Examples as `prepare` wrote them.

    Raises:
        DataError: the file is missing or was not written by `prepare`.
    """
    return [Example(ids, targets, Origin(*origin)) for ids, targets, *origin in _columns(path, _EXAMPLES)]


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """The file that `load_examples` reads."""
    columns = [_lists([e.input_ids for e in examples]), _lists([e.targets for e in examples]),
               *_origins([e.origin for e in examples])]
    pq.write_table(pa.table(columns, schema=_EXAMPLES), path)


def load_rejected(path: Path) -> list[Rejected]:
    """Rejected rows as `prepare` wrote them, also where the stage failed on their number.

    Raises:
        DataError: the file is missing or was not written by `prepare`.
    """
    return [Rejected(Why(why), detail, Origin(*origin)) for why, detail, *origin in _columns(path, _REJECTED)]


def _columns(path: Path, schema: pa.Schema) -> Iterator[tuple[Any, ...]]:
    try:
        table = pq.read_table(path, schema=schema)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"cannot read {path}: {error}; run the stage prepare again") from error
    return zip(*(table.column(name).to_pylist() for name in schema.names), strict=True)


def _curate(conversations: Sequence[Conversation], data: DataSection, items: ItemIndex) -> dedupe.Curated:
    kept, rejected = list(conversations), []
    steps = [
        (data.duplicates.exact, dedupe.exact),
        (data.duplicates.near, lambda rows: dedupe.near(rows, data.duplicates.threshold)),
        (data.decontaminate == "drop", lambda rows: decontaminate(rows, items)),
    ]
    for wanted, step in steps:
        if wanted:
            kept, gone = step(kept)
            rejected += gone
    return dedupe.Curated(kept, rejected)


def _render(conversations: Sequence[Conversation], renderer: Renderer, data: DataSection) -> _Rendered:
    rendered = _Rendered({}, [])
    with progress("rendering", len(conversations), "conversations") as bar:
        for conversation, found in zip(conversations, fit(conversations, renderer, data), strict=True):
            check()
            if isinstance(found, Rejected):
                rendered.rejected.append(found)
            else:
                rendered.fitted[conversation.origin] = found
            bar.advance()
    return rendered


def _tell(read: Intake, rejected: Sequence[Rejected], no_conversations: int) -> None:
    """Say per source what curation and rendering left out, with reasons, while there is time to look."""
    for name, rows in read.rows.items():
        mine = [one for one in rejected[no_conversations:] if one.origin.source == name]
        left = rows - sum(one.origin.source == name for one in rejected)
        if mine:
            log.log(logging.INFO if left else logging.WARNING, "%s: %d of %d rows become examples; left out: %s; the "
                    "first: %s: %s", name, left, rows, tallied(mine), mine[0].origin, mine[0].detail)


def _replay(sources: Sequence[SourceSection], tokenizer: PreTrainedTokenizerBase, max_tokens: int, look: _Look,
            scratch: Path, mirror: Path | None) -> _Replay:
    replay = _Replay([], [], [], [])
    for source in sources:
        if source.format not in ("auto", "text"):
            raise DataError(f"replay source {source.path} has format {source.format}; replay is raw text: a .txt file, "
                            "or rows with a column text (map it: columns: {text: body})")
        rejected: list[Rejected] = []
        examples: list[Example] = []
        documents = split_up = 0
        for row in read_rows(source, scratch=scratch, mirror=mirror):
            check()
            text = row if isinstance(row, Rejected) else to_text(row, source)
            if isinstance(text, Rejected):
                rejected.append(text)
                continue
            if item := look.items.find(text):
                if look.drop:
                    rejected.append(contaminated(item, row.origin))
                    continue
                replay.found.extend(look.items.find_all(text))
            parts = list(pieces(render_text(text, tokenizer, row.origin), max_tokens))
            documents += 1
            split_up += len(parts) > 1
            examples += parts
        replay.examples.extend(examples)
        replay.rejected.extend(rejected)
        replay.counts.append(SourceCount(
            name_of(source), ("text",), documents + len(rejected), _reasons(rejected), documents, documents, 0,
            split=split_up, **_token_counts(examples, (tokenizer.eos_token_id,)),
        ))
    return replay


def _count(name: str, read: Intake, rejected: Sequence[Rejected], train: Sequence[Fitted], validation: Sequence[Fitted],
           stop_ids: Collection[int]) -> SourceCount:
    kept, held_out = ([f for f in half if f.examples[0].origin.source == name] for half in (train, validation))
    mine = [*kept, *held_out]
    return SourceCount(
        name, read.formats[name], read.rows[name], _reasons(r for r in rejected if r.origin.source == name), len(mine),
        len(kept), len(held_out),
        truncated=sum(f.turns_dropped > 0 for f in mine), turns_dropped=sum(f.turns_dropped for f in mine),
        split=sum(len(f.examples) > 1 for f in mine), escaped=sum(f.escaped for f in mine),
        nulls=sum(c.nulls for c in read.conversations if c.origin.source == name),
        **_token_counts(_examples(mine), stop_ids),
    )


def _examples(fitted: Iterable[Fitted]) -> list[Example]:
    return [example for one in fitted for example in one.examples]


def _token_counts(examples: Sequence[Example], stop_ids: Collection[int]) -> dict[str, int]:
    stops = sum(example.targets.count(stop) for example in examples for stop in set(stop_ids))
    return {**_totals(examples)._asdict(), "stops_trained": stops}


def _totals(examples: Sequence[Example]) -> Totals:
    trained = sum(len(e.targets) - e.targets.count(IGNORE) for e in examples)
    return Totals(len(examples), sum(len(e.input_ids) for e in examples), trained)


def _reasons(rejected: Iterable[Rejected]) -> Mapping[str, int]:
    return dict(sorted(Counter(str(r.why) for r in rejected).items()))


def _refuse_equal_names(sources: Sequence[SourceSection]) -> None:
    twice = [name for name, times in Counter(map(name_of, sources)).items() if times > 1]
    if twice:
        raise DataError(f"several sources are called {', '.join(twice)}; give each its own name: in the configuration")


def _check(ledger: Ledger, data: DataSection, rejected: Sequence[Rejected], out: Path) -> None:
    where = f"`sft data show CONFIG --rejected` lists them ({out / 'rejected.parquet'})"
    too_long = [r for r in rejected if r.why is Why.TOO_LONG]
    if too_long and data.too_long == "fail":
        raise DataError(f"{len(too_long)} of {ledger.read} rows do not fit data.max_tokens = {data.max_tokens} (first: "
                        f"{too_long[0].origin}, {too_long[0].detail}); raise it, or set data.too_long to drop or "
                        f"truncate_left_context; {where}")
    for counts, what in ((ledger.sources, "rows"), (ledger.replay, "replay rows")):
        read, unusable = sum(c.read for c in counts), sum(c.unusable for c in counts)
        if unusable > data.max_rejected_share * read:
            reasons = sum((Counter(c.rejected) for c in counts), Counter())
            raise DataError(f"{unusable} of {read} {what} cannot be used, more than data.max_rejected_share = "
                            f"{data.max_rejected_share:g} allows; all that was rejected: {_listed(reasons)}; {where}; "
                            f"correct the sources{_remedies(reasons)}, or raise the share")
    if not sum(c.train for c in ledger.sources):
        raise DataError(f"no training conversation is left of {ledger.read} rows: {_listed(ledger.reasons())}; "
                        f"validation {sum(c.validation for c in ledger.sources)}; {where}")
    if ledger.replay and not sum(c.tokens for c in ledger.replay):
        raise DataError(f"the replay sources hold no text; {where}")


def _remedies(reasons: Mapping[str, int]) -> str:
    """Settings that put right what some rows were rejected for."""
    ways = {Why.ROLE_ORDER: "data.repair puts turns into order", Why.UNKNOWN_ROLE: "roles: of a source names speakers",
            Why.MISSING_COLUMN: "columns: of a source names columns"}
    there = [way for why, way in ways.items() if reasons.get(why)]
    return f" ({', '.join(there)}; the list says which)" if there else ""


def _check_sources(counts: Sequence[tuple[SourceSection, SourceCount]], out: Path) -> None:
    """A source that gives nothing is a mistake until its section says otherwise."""
    for source, count in counts:
        if not (source.may_be_empty or count.examples):
            raise DataError(f"the source {count.source} gives no example: of {count.read} rows read {count.kept} are "
                            f"kept, and left out are {_listed(count.rejected)}; `sft data show CONFIG --rejected` "
                            f"lists them ({out / 'rejected.parquet'}); correct it, take it out, or set may_be_empty: "
                            "true there")


def _listed(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{why} {number}" for why, number in reasons.items()) or "none"


def _write(out: Path, ledger: Ledger, template: Template, examples: Mapping[Split, Sequence[Example]],
           rejected: Sequence[Rejected]) -> None:
    for name, rows in examples.items():
        write_examples(out / f"{name}.parquet", rows)
    columns = [[str(r.why) for r in rejected], [_encodable(r.detail) for r in rejected],
               *_origins([r.origin for r in rejected])]
    pq.write_table(pa.table(columns, schema=_REJECTED), out / "rejected.parquet")
    write_json(out / "ledger.json", ledger.to_dict())
    write_json(out / "template.json", {
        "name": template.name, "stops": list(template.stops), "jinja": template.jinja,
        "added_tokens": list(template.added)})


def _lists(rows: Sequence[Sequence[int]]) -> pa.ListArray:
    """Lists of integers as one Arrow column, by way of one flat array: seven times faster than element by element."""
    ends = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    flat = np.fromiter(chain.from_iterable(rows), np.int32, int(ends[-1]))
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(flat))


def _origins(origins: Sequence[Origin]) -> list[list[object]]:
    return [[o.source for o in origins], [o.file for o in origins], [o.line for o in origins]]


def _encodable(text: str) -> str:
    return text.encode(errors="replace").decode()


def _write_samples(path: Path, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> None:
    """A few training examples as text, for a person to look at the mask."""
    with path.open("w", encoding="utf-8") as stream:
        for example in examples:
            row = {"origin": str(example.origin), "tokens": len(example.input_ids),
                   "pieces": [list(piece) for piece in spans_of(example, tokenizer)]}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
