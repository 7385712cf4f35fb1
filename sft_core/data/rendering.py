"""One shard of curated conversations → rendered examples, split and counted; the same whoever computes it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from sft_core.config.data import DataSection, TemplateSection
from sft_core.conversation import Conversation, Rejected
from sft_core.data.curate.curated import Curated, read_curated
from sft_core.data.examples import Block, block_of
from sft_core.data.held_tasks import held_sources, item_of
from sft_core.data.holdout import place
from sft_core.data.ledger import Split
from sft_core.data.mix.labels import UNKNOWN, Labels
from sft_core.data.sources import name_of
from sft_core.data.tally import Tally
from sft_core.stopping import check
from sft_core.templates.render import Example, Renderer
from sft_core.templates.template import Template
from sft_core.templates.thoughts import thinks
from sft_core.templates.truncate import Fitted, fit


@dataclass(frozen=True)
class Recipe:
    """What shards are rendered by. It travels to other processes, and each makes a renderer of its own."""

    template: Template
    tokenizer: PreTrainedTokenizerBase
    section: TemplateSection
    data: DataSection
    seed: int  # of the split

    @cached_property
    def renderer(self) -> Renderer:
        """Raises TemplateError where the template cannot be used with this tokenizer."""
        return Renderer(self.template, self.tokenizer, self.section)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


class ShardToRender(NamedTuple):
    """A shard of curated conversations."""

    path: Path
    sides: Sequence[bool] | None  # of each whether it is held out; None where each one's content says so


class RenderedShard(NamedTuple):
    """What became of a shard."""

    rows: int
    blocks: Mapping[Split, Block]
    tallies: Mapping[str, Tally]  # of every source
    rejected: Sequence[Rejected]
    trained_on: Collection[tuple[str, str]]  # evaluation items, as (suite, id)
    labels: Labels  # of the training examples
    held: Sequence[Mapping[str, Any]]  # items of held-out tasks


def render_shard(shard: ShardToRender, *, recipe: Recipe) -> RenderedShard:
    """Render and split.

    Raises:
        TemplateError: the template cannot be used for training.
    """
    work = _Work(recipe)
    curated = read_curated(shard.path)
    sides = [place(one.conversation, recipe.seed).at < recipe.data.validation_share for one in curated] \
        if shard.sides is None else shard.sides
    left = [(one, side) for one, side in zip(curated, sides, strict=True) if not work.holds_out(one)]
    conversations = [one.conversation for one, _ in left]
    for (one, side), found in zip(left, fit(conversations, recipe.renderer, recipe.data), strict=True):
        check()
        if isinstance(found, Rejected):
            work.reject(found)
        else:
            work.add(one, found, "validation" if side else "train")
    blocks: dict[Split, Block] = {name: block_of(rows) for name, rows in work.examples.items()}
    return RenderedShard(len(curated), blocks, dict(work.tallies), work.rejected, work.trained_on, work.labels,
                         work.held)


class _Work:
    """One shard on its way."""

    def __init__(self, recipe: Recipe) -> None:
        self._sources = {name_of(source): source for source in recipe.data.sources}
        self._tasks = held_sources(recipe.data)
        self._stop_ids = recipe.renderer.stop_ids
        self.examples: dict[Split, list[Example]] = {"train": [], "validation": []}
        self.tallies: defaultdict[str, Tally] = defaultdict(Tally)
        self.rejected: list[Rejected] = []
        self.trained_on: set[tuple[str, str]] = set()
        self.labels = Labels([], [], [])
        self.held: list[Mapping[str, Any]] = []

    def holds_out(self, one: Curated) -> bool:
        """Whether it is of a held-out task; then it becomes an item, or is rejected."""
        name = one.conversation.origin.source
        if name not in self._tasks:
            return False
        item = item_of(one, self._tasks[name])
        if isinstance(item, Rejected):
            self.reject(item)
        else:
            self.held.append(item)
            self.tallies[name].held_out += 1
        return True

    def reject(self, rejected: Rejected) -> None:
        self.tallies[rejected.origin.source].reject(rejected)
        self.rejected.append(rejected)

    def add(self, one: Curated, found: Fitted, half: Split) -> None:
        source = self._sources[one.conversation.origin.source]
        self.examples[half] += found.examples
        _count(self.tallies[one.conversation.origin.source], one.conversation, found, half)
        self.tallies[one.conversation.origin.source].add(found.examples, self._stop_ids)
        if half == "train":
            self.tallies[one.conversation.origin.source].train_examples += len(found.examples)
            self.trained_on.update(one.items)
            self.labels.add(Labels(*([label] * len(found.examples)
                                     for label in (one.language, source.task or UNKNOWN, source.kind))))


def _count(tally: Tally, conversation: Conversation, found: Fitted, half: Split) -> None:
    if half == "train":
        tally.train += 1
    else:
        tally.validation += 1
    tally.truncated += found.turns_dropped > 0
    tally.turns_dropped += found.turns_dropped
    tally.split += len(found.examples) > 1
    tally.escaped += found.escaped
    tally.thoughts += any(map(thinks, conversation.turns))
    tally.repaired += conversation.repaired
