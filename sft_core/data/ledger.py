"""Counts of everything that was read, dropped, cut and trained, per source. Missing is not zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from sft_core.conversation import Why
from sft_core.errors import DataError

POLICY = frozenset({
    Why.EXACT_DUPLICATE, Why.NEAR_DUPLICATE, Why.CONTAMINATED, Why.TOO_LONG, Why.BAD_ANSWER, Why.LENGTH,
    Why.PLACEHOLDER, Why.REPETITION, Why.REFUSAL, Why.TRUNCATED, Why.DAMAGE, Why.ECHO, Why.LANGUAGE,
    Why.SCORE, Why.NOT_SELECTED, Why.PERSONAL_DATA,
})
"""Rows that could be used and are left out on purpose; all other reasons mean that a row cannot be used."""


Split = Literal["train", "validation", "replay"]


class Totals(NamedTuple):
    """What one file of examples holds; the trainer's counters must reach it."""

    examples: int = 0
    tokens: int = 0
    trained_tokens: int = 0


@dataclass(frozen=True)
class SourceCount:
    """What became of one source. `tokens` and `trained_tokens` count both halves of the split."""

    source: str
    formats: tuple[str, ...]  # what its files were found to hold
    read: int
    rejected: Mapping[str, int]  # by reason
    kept: int
    train: int
    validation: int
    held_out: int = 0  # of a task in data.held_out_tasks: they become items of a suite
    train_examples: int = 0  # of the conversations that train
    examples: int = 0  # a conversation gives several where its turns are trained apart, a long document its pieces
    truncated: int = 0  # conversations that lost their oldest turns
    turns_dropped: int = 0  # turns lost that way
    answers_cut: int = 0  # answers that lost a part: always 0, an answer goes whole or not at all
    split: int = 0  # conversations, or documents, that became several examples
    escaped: int = 0  # conversations that spell control tokens, which became plain text
    thoughts: int = 0  # conversations whose answers lost their thoughts
    repaired: int = 0  # conversations whose turns were trimmed or merged, as data.repair asks for
    nulls: int = 0  # null keys of tool arguments and schemas in Arrow structs: meant so, or never there; left out
    tokens: int = 0
    trained_tokens: int = 0
    stops_trained: int = 0  # trained stop tokens; for replay, trained EOS tokens

    @property
    def trained_share(self) -> float | None:
        """Trained tokens per token; None without tokens."""
        return self.trained_tokens / self.tokens if self.tokens else None

    @property
    def unusable(self) -> int:
        """Rows that cannot be used, without those left out on purpose."""
        return sum(n for why, n in self.rejected.items() if Why(why) not in POLICY)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "rejected": dict(self.rejected), "trained_share": self.trained_share}


@dataclass(frozen=True)
class Ledger:
    """All sources of one preparation."""

    sources: tuple[SourceCount, ...]
    replay: tuple[SourceCount, ...] = ()
    splits: Mapping[Split, Totals] = field(default_factory=dict)  # of the files that training reads

    def __post_init__(self) -> None:
        """Raises DataError when a row is neither kept nor rejected, or a token neither of a source nor of a file:
        nothing disappears without a tally."""
        for count in (*self.sources, *self.replay):
            rejected = sum(count.rejected.values())
            if count.read != count.kept + rejected or count.kept != count.train + count.validation + count.held_out:
                raise DataError(f"the counts of {count.source} do not add up: {count.read} read, {count.kept} kept "
                                f"({count.train} + {count.validation} + {count.held_out}), {rejected} rejected; this "
                                "is a bug, please report it")
            if count.answers_cut:
                raise DataError(f"{count.answers_cut} answers of {count.source} were cut; this is a bug, please report "
                                "it")
        files: tuple[tuple[tuple[SourceCount, ...], tuple[Split, ...]], ...] = (
            (self.sources, ("train", "validation")), (self.replay, ("replay",)))
        for counts, names in files:
            by_source = Totals(*(sum(getattr(count, name) for count in counts) for name in Totals._fields))
            by_split = Totals(*map(sum, zip(*(self.splits.get(name, Totals()) for name in names), strict=True)))
            if by_source != by_split:
                raise DataError(f"the sources amount to {by_source} and the files of {' and '.join(names)} to "
                                f"{by_split}; this is a bug, please report it")

    @property
    def read(self) -> int:
        """Rows read from the training sources."""
        return sum(count.read for count in self.sources)

    @property
    def unusable(self) -> int:
        """Rows of the training sources that cannot be used."""
        return sum(count.unusable for count in self.sources)

    def reasons(self) -> dict[str, int]:
        """Rejected rows of the training sources by reason, most first."""
        total: dict[str, int] = {}
        for count in self.sources:
            for why, number in count.rejected.items():
                total[why] = total.get(why, 0) + number
        return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "sources": [count.to_dict() for count in self.sources],
            "replay": [count.to_dict() for count in self.replay],
            "read": self.read,
            "unusable": self.unusable,
            "rejected": self.reasons(),
            **{f"{split}_{name}": value for split in get_args(Split)
               for name, value in self.splits.get(split, Totals())._asdict().items()},
        }

    def table(self) -> list[dict[str, object]]:
        """One flat row per source for a terminal or a report; replay sources are marked in `use`."""
        uses = [("train", count) for count in self.sources] + [("replay", count) for count in self.replay]
        return [
            {
                "source": count.source, "use": use, "format": ", ".join(count.formats), "read": count.read,
                "kept": count.kept, "rejected": ", ".join(f"{why} {n}" for why, n in count.rejected.items()),
                "train": count.train, "validation": count.validation, "held_out": count.held_out,
                "train_examples": count.train_examples, "examples": count.examples,
                "truncated": count.truncated, "split": count.split,
                "answers_cut": count.answers_cut, "escaped": count.escaped, "thoughts": count.thoughts,
                "repaired": count.repaired, "nulls": count.nulls, "tokens": count.tokens,
                "trained_tokens": count.trained_tokens, "trained_share": count.trained_share,
                "stops_trained": count.stops_trained,
            }
            for use, count in uses
        ]
