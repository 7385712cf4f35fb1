"""The stage `prepare`: curated conversations → rendered and split examples on disk, and the ledger of all rows.

Conversations come and examples go shard by shard; no list of all rows is held.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from sft_core.config.data import DataSection, SourceSection, TemplateSection
from sft_core.conversation import Why
from sft_core.data.curate.chain import refuse_equal_names
from sft_core.data.curate.contamination import ItemFinder
from sft_core.data.curate.curated import curated_shards, has_clusters
from sft_core.data.curate.decontaminate import ids_by_suite
from sft_core.data.curate.items import EvalItem
from sft_core.data.examples import ExampleFiles, iter_examples
from sft_core.data.held_tasks import HeldOut
from sft_core.data.holdout import held_out, place
from sft_core.data.intake import tallied
from sft_core.data.ledger import Ledger, SourceCount, Split, Totals
from sft_core.data.mix.labels import Labels, write_labels
from sft_core.data.rendering import Recipe, RenderedShard, ShardToRender, render_shard
from sft_core.data.replay import Look, cut
from sft_core.data.shards import load_rejected, rows_in, shards_of
from sft_core.data.show import spans_of
from sft_core.data.sources import read_rows
from sft_core.data.tally import Tally
from sft_core.data.workers import InProcess, Workers
from sft_core.errors import DataError
from sft_core.progress import progress
from sft_core.stage import read_json, write_json
from sft_core.templates.choose import choose
from sft_core.templates.render import Example

log = logging.getLogger("sft")
SAMPLES = 20
"""Examples shown in `sample.jsonl`."""


def prepare(  # noqa: PLR0913  (the inputs of a stage, all by keyword)
    data: DataSection, template: TemplateSection, *, tokenizer: PreTrainedTokenizerBase, curated: Path,
    replay: tuple[SourceSection, ...], eval_items: Sequence[EvalItem], seed: int, mirror: Path | None, out: Path,
    workers: Workers | None = None,
) -> Ledger:
    """Prepare training data into the existing, empty folder `out`.

    Written are `train.parquet`, `validation.parquet`, `replay.parquet` (`load_examples` reads them),
    `rejected.parquet`, `ledger.json`, `contaminated.json` (suite → ids of its items in what is trained on),
    `template.json`, `sample.jsonl`, `labels.parquet` (of the training examples, for the mixture), where tasks are
    held out `held_out.jsonl`, and in `sources/` what `tiny:…` stands for.

    Args:
        data, template: their sections of the configuration.
        tokenizer: the base model's.
        curated: what `curate` left of the sources of `data`.
        replay: sources of raw text, none when replay is off.
        eval_items: what to look for in replay text, see `data.decontaminate`.
        seed: of the split.
        mirror: folder that stands for the hub, or None.
        workers: who renders; by default this process. The examples are the same.

    Raises:
        DataError: a source cannot be read; more than `data.max_rejected_share` of the rows cannot be used; an example
            is too long under `too_long: fail`; no example is left.
        TemplateError: the template cannot be used with this tokenizer.
    """
    recipe = Recipe(choose(template, tokenizer), tokenizer, template, data, seed)
    recipe.renderer  # noqa: B018  (an unusable template is told of before anything is written)
    refuse_equal_names([*data.sources, *replay])
    made = _Made(data, curated, out)
    for shard in _rendered(curated, recipe, workers or InProcess()):
        made.add(shard)
    look = Look(ItemFinder(eval_items if data.decontaminate.looks else (),
                       reworded=data.decontaminate.reworded != "off"), data.decontaminate, made.trained_on)
    replayed = [cut(source, read_rows(source, scratch=out / "sources", mirror=mirror), tokenizer, data.max_tokens, look,
                    made.files) for source in replay]
    made.close(out)
    reads = read_json(curated / "curation.json")["sources"]
    _tell(reads, made.tallies)
    ledger = Ledger(
        tuple(_count(read, made.tallies[read["name"]], template) for read in reads),
        tuple(replayed), {name: made.files.totals.get(name, Totals()) for name in get_args(Split)})
    write_json(out / "ledger.json", ledger.to_dict())
    write_json(out / "contaminated.json", ids_by_suite(EvalItem(suite, name, "") for suite, name in made.trained_on))
    write_json(out / "template.json", {
        "name": recipe.template.name, "stops": list(recipe.template.stops), "jinja": recipe.template.jinja,
        "added_tokens": list(recipe.template.added)})
    _write_samples(out / "sample.jsonl", islice(iter_examples(out / "train.parquet"), SAMPLES), tokenizer)
    _check(ledger, data, out)
    _check_sources([*zip(data.sources, ledger.sources, strict=True), *zip(replay, ledger.replay, strict=True)], out)
    return ledger


class _Made:
    """What all shards came to, written as they come."""

    def __init__(self, data: DataSection, curated: Path, out: Path) -> None:
        self.files = ExampleFiles(out)
        self.tallies: dict[str, Tally] = defaultdict(Tally)
        self.trained_on: set[tuple[str, str]] = set()
        self._labels, self._held = Labels([], [], []), HeldOut(data, out)
        for batch in pq.ParquetFile(curated / "rejected.parquet").iter_batches():
            self.files.rejected.add_table(pa.Table.from_batches([batch]))

    def add(self, shard: RenderedShard) -> None:
        """This one comes next."""
        for name, block in shard.blocks.items():
            self.files.write(name, block)
        for source, tally in shard.tallies.items():
            self.tallies[source].merge(tally)
        self.files.rejected.add(shard.rejected)
        self._held.write(shard.held)
        self._labels.add(shard.labels)
        self.trained_on.update(shard.trained_on)

    def close(self, out: Path) -> None:
        """Nothing more comes."""
        self._held.close()
        self.files.close()
        write_labels(out, self._labels)


def _rendered(curated: Path, recipe: Recipe, workers: Workers) -> Iterator[RenderedShard]:
    files = shards_of(curated)
    shards = [ShardToRender(file, sides) for file, sides in zip(files, _sides(curated, recipe), strict=True)]
    with progress("rendering", rows_in(curated), "conversations") as bar:
        for shard in workers.map(partial(render_shard, recipe=recipe), shards):
            bar.advance(shard.rows)
            yield shard


def _sides(curated: Path, recipe: Recipe) -> list[list[bool] | None]:
    """Of the conversations of every shard which are held out; of near duplicates that stay, none is without the others.
    None where there are no such, and each one's content says it."""
    if not has_clusters(curated):
        return [None] * len(shards_of(curated))
    shards = [[(place(one.conversation, recipe.seed), one.cluster) for one in shard]
              for shard in curated_shards(curated)]
    rows = list(chain.from_iterable(shards))
    clusters = (-at if cluster is None else cluster for at, (_, cluster) in enumerate(rows, 1))
    out = iter(held_out([at for at, _ in rows], recipe.data.validation_share, clusters))
    return [list(islice(out, len(shard))) for shard in shards]


def _tell(reads: Sequence[Mapping[str, Any]], tallies: Mapping[str, Tally]) -> None:
    """Say per source what curation and rendering left out, with reasons, while there is time to look."""
    for read in reads:
        tally = tallies[read["name"]]
        mine = Counter(read["curated"]) + tally.rejected
        left = tally.train + tally.validation + tally.held_out
        if mine:
            first = f"; the first: {tally.first.origin}: {tally.first.detail}" if tally.first else ""
            log.log(logging.INFO if left else logging.WARNING, "%s: %d of %d rows become %s; left out: %s%s",
                    read["name"], left, read["rows"], "items of held_out.jsonl" if tally.held_out else "examples",
                    tallied(mine), first)


def _count(read: Mapping[str, Any], tally: Tally, template: TemplateSection) -> SourceCount:
    rejected = Counter(read["rejected"]) + Counter(read["curated"]) + tally.rejected
    counts = tally.counts() | ({} if template.thinking == "drop" else {"thoughts": 0})
    return SourceCount(read["name"], tuple(read["formats"]), read["rows"], dict(sorted(rejected.items())),
                       tally.train + tally.validation + tally.held_out, nulls=read["nulls"], **counts)


def _check(ledger: Ledger, data: DataSection, out: Path) -> None:
    where = f"`sft data show CONFIG --rejected` lists them ({out / 'rejected.parquet'})"
    if data.too_long == "fail" and (too_long := ledger.reasons().get(Why.TOO_LONG)):
        first = next(one for one in load_rejected(out / "rejected.parquet") if one.why is Why.TOO_LONG)
        raise DataError(f"{too_long} of {ledger.read} rows do not fit data.max_tokens = {data.max_tokens} (first: "
                        f"{first.origin}, {first.detail}); raise it, or set data.too_long to drop or "
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
        if not (source.may_be_empty or count.examples or count.held_out):
            raise DataError(f"the source {count.source} gives no example: of {count.read} rows read {count.kept} are "
                            f"kept, and left out are {_listed(count.rejected)}; `sft data show CONFIG --rejected` "
                            f"lists them ({out / 'rejected.parquet'}); correct it, take it out, or set may_be_empty: "
                            f"true there{_chosen(count)}")


def _chosen(count: SourceCount) -> str:
    return "; data.select.sources keeps a source out of the selection" if count.rejected.get(Why.NOT_SELECTED) else ""


def _listed(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{why} {number}" for why, number in reasons.items()) or "none"


def _write_samples(path: Path, examples: Iterable[Example], tokenizer: PreTrainedTokenizerBase) -> None:
    """A few training examples as text, for a person to look at the mask."""
    with path.open("w", encoding="utf-8") as stream:
        for example in examples:
            row = {"origin": str(example.origin), "tokens": len(example.input_ids),
                   "pieces": [list(piece) for piece in spans_of(example, tokenizer)]}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
