"""What an evaluation found: one row per item, and the protocol under which it was found.

A suite's results are two files in a folder: `<suite>.parquet` with the items and `<suite>.json` with the rest.
"""

from __future__ import annotations

import json
import math
import re
import traceback
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from sft_core.config.evaluate import MIN_SCORED
from sft_core.errors import DamagedFile, EvalError, SftError
from sft_core.names import file_name
from sft_core.stage import fingerprint, read_json, write_json
from sft_core.visible import whole

COLUMNS = pa.schema([
    ("suite", pa.string()), ("task", pa.string()), ("item_id", pa.string()), ("cluster", pa.string()),
    ("score", pa.float64()), ("metrics", pa.string()), ("prompt", pa.string()), ("answer", pa.string()),
    ("target", pa.string()), ("why", pa.string()), ("asked", pa.string()), ("ids", pa.string()),
    ("weight", pa.float64()), ("context", pa.string()), ("chance", pa.float64()),
])

TEXTS = ("metrics", "prompt", "answer", "target", "why", "ids", "context")
"""Columns that only people and reports read."""
FAILED = "the scorer failed:"
"""How the reason of an item begins whose scorer raised; the end of the traceback follows."""
SCORER_ERRORS = (ArithmeticError, AssertionError, AttributeError, BufferError, ImportError, LookupError, MemoryError,
                 NameError, OSError, RuntimeError, SftError, StopIteration, SyntaxError, TypeError, ValueError)
"""All that a scorer can raise and that is no wish to stop the process."""
LONGEST_WHY = 240
"""Characters of a reason that is shown in a line."""
NUMBERS = re.compile(r"\d+")


def scorer_failed(error: BaseException) -> str:
    """Why an item has no score whose scorer raised: the end of the traceback."""
    lines = "".join(traceback.format_exception(error)).strip().splitlines()[-4:]
    return f"{FAILED} " + "\n".join(lines)


OF = "/n"
"""Ending of the metric that says of how many marks of an item another one is the share."""
AT = "|"
"""What stands between a metric and the kind of instruction that it is of; lm-eval has a metric pass@1."""


class ItemResult(NamedTuple):
    """One answer. `score` is None where the item could not be scored: that is not a zero."""

    suite: str
    task: str  # lm-eval task, or kind of item
    item_id: str  # unique in the suite, the same for every model
    cluster: str  # items that share it are not independent
    score: float | None  # in [0, 1]; on the scale `log`: minus nats per byte
    metrics: Mapping[str, float]
    prompt: str  # the question, without few-shot examples
    answer: str
    target: str
    why: str  # why points are missing
    asked: str  # hash of everything the model was shown and of the target
    ids: str = ""  # hash of the prompt's token ids, where the backend knows them
    weight: float = 1.0  # of the item in the suite's mean: items it stands for in a sample, or bytes of its text
    context: str = ""  # all that lm-eval put before the answer, examples included: what `ids` is the hash of
    chance: float | None = 0.0  # score that guessing gives: 1 / choices; None where nobody knows it

    @property
    def answered(self) -> bool:
        """There is an answer or a measurement; whether it could be scored is another question."""
        return self.score is not None or bool(self.metrics)

    @property
    def should_refuse(self) -> bool | None:
        """Whether refusing is right, of answers without a score, too; None where this is no request, or its scorer does
        not say whether an answer refuses."""
        if self.score is not None and "refused" not in self.metrics:
            return None
        try:
            expect = json.loads(self.target)
        except json.JSONDecodeError:
            return None
        return bool(expect["refuse"]) if isinstance(expect, dict) and "refuse" in expect else None


class Answerable(NamedTuple):
    """The requests of a suite that should be answered; `refused` is what the base refuses of them, None if unknown."""

    items: int
    clusters: int
    refused: float | None = None


class Expected(NamedTuple):
    """The items that a suite will ask; `base` is the score of the base, None where nobody has asked it yet."""

    suite: str
    kind: str
    scale: str
    items: int
    clusters: int
    base: float | None = None
    room: str = ""  # why the base has nothing to lose or to win, where that is so
    answerable: Answerable | None = None
    tokens: tuple[float, float] = (0.0, 0.0)  # of an item with its answer, at least and at most, before it is asked
    design: float | None = None  # variance of a mean of items as alike as the base's answers against independent ones
    effective: float | None = None  # clusters of equal size that say as much; None: the clusters are about equal
    elsewhere: tuple[str, ...] = ()  # tasks all of whose items are in the part that is not asked


class Tally(NamedTuple):
    """Mean score of some items with its counts; None when none was scored."""

    score: float | None
    scored: int
    unscored: int

    def held_to(self, least: float) -> Tally:
        """Without the mean where less than this share of the items has a score."""
        return self if enough(self.scored, self.scored + self.unscored, least) else self._replace(score=None)


def enough(scored: int, asked: int, least: float) -> bool:
    """Whether the scored items are at least this share of those asked; then what they say counts as measured."""
    return scored >= least * asked - 1e-9


def tally(items: Sequence[ItemResult]) -> Tally:
    """Weighted mean over the scored items."""
    scored = [(item.weight, item.score) for item in items if item.score is not None]
    total = sum(weight for weight, _ in scored)
    mean = sum(weight * score for weight, score in scored) / total if total else None
    return Tally(mean, len(scored), len(items) - len(scored))


def mean_metric(items: Iterable[ItemResult], name: str) -> float | None:
    """Weighted mean of a further metric over the items that have it; None where none has. Shares of several marks count
    by their marks (`OF`)."""
    found = [(item.weight * item.metrics.get(name + OF, 1.0), item.metrics[name]) for item in items
             if name in item.metrics]
    total = sum(weight for weight, _ in found)
    return sum(weight * value for weight, value in found) / total if total else None


@dataclass(frozen=True)
class SuiteResult:
    """All answers of one model to one suite.

    `protocol` is everything that makes two scores comparable; `truncated` counts requests whose context lm-eval had
    to cut to fit the model; `model` is the content hash of the model folder; `backend` says who computed the answers,
    with its version; `scale` is that of the scores (see `suites.Suite.scale`); `looks` says where a sequential
    evaluation stopped.
    """

    suite: str
    kind: str
    protocol: Mapping[str, Any]
    items: tuple[ItemResult, ...] = field(repr=False)
    seconds: float
    truncated: int = 0
    model: str = ""
    backend: str = ""
    scale: str = "share"
    looks: tuple[int, int] | None = None  # (looks taken, looks planned) of a sequential evaluation
    vocabulary: str = ""  # hash of the tokenizer's tokens and ids; empty where it is not seen
    batch_tokens: int = 0  # padded tokens of a batch, by the end; 0 where batches are the engine's own
    min_scored: float = MIN_SCORED  # least share of the items that must have a score (`eval.min_scored`)
    found: bool = field(default=False, compare=False)  # it was there, made earlier; the files do not keep this

    @cached_property
    def protocol_hash(self) -> str:
        """Equal exactly when two results may be compared."""
        return fingerprint(dict(self.protocol))

    @cached_property
    def tally(self) -> Tally:
        """Mean score over all items; None where fewer than `min_scored` of them have one."""
        return tally(self.items).held_to(self.min_scored)

    @property
    def score(self) -> float | None:
        """Mean score; None when too few items were scored, see `min_scored`."""
        return self.tally.score

    @property
    def chance(self) -> float | None:
        """Mean score that guessing gives, over the scored items; 0 where there are no choices, None where it is not
        known of one of them."""
        scored = [(item.weight, item.chance) for item in self.items if item.score is not None]
        known = [(weight, chance) for weight, chance in scored if chance is not None]
        if len(known) < len(scored):
            return None
        total = sum(weight for weight, _ in known)
        return sum(weight * chance for weight, chance in known) / total if total else 0.0

    @property
    def n(self) -> int:
        """Items asked, scored or not."""
        return len(self.items)

    def tasks(self) -> dict[str, Tally]:
        """Mean score per task or kind of item, held to `min_scored`."""
        return {task: tally(items).held_to(self.min_scored) for task, items in self._by_task().items()}

    def _by_task(self) -> dict[str, list[ItemResult]]:
        groups: dict[str, list[ItemResult]] = {}
        for item in self.items:
            groups.setdefault(item.task, []).append(item)
        return groups

    def metrics(self) -> dict[str, float]:
        """Mean of every further metric over the items that have it, as `task/metric`; of marks (`OF`) their number.
        None of a task of whose items less than `min_scored` were answered.

        Where nats were measured, also the perplexities of the whole: `ppl_token`, `ppl_byte`, `ppl_word`.
        """
        found = {}
        for task, asked in self._by_task().items():
            items = [one if self.scale == "share" else one._replace(weight=1.0) for one in asked if one.answered]
            names = dict.fromkeys(name for item in items for name in item.metrics)
            for name in names if enough(len(items), len(asked), self.min_scored) else ():
                marks = sum(item.metrics.get(name, 0.0) for item in items)
                found[f"{task}/{name}"] = marks if name.endswith(OF) else mean_metric(items, name) or 0.0
        return found | self._perplexities()

    def _perplexities(self) -> dict[str, float]:
        """exp(nats / units) over all texts; units that only some of them have are left out."""
        found = [item.metrics for item in self.items if "nats" in item.metrics and self.score is not None]
        nats = sum(one["nats"] for one in found)
        totals = {unit: sum(one[unit + "s"] for one in found) for unit in ("token", "byte", "word")
                  if found and all(unit + "s" in one for one in found)}
        return {f"ppl_{unit}": math.exp(min(nats / total, 700.0)) for unit, total in totals.items() if total}


def ended(tokens: int, *, stopped: bool) -> dict[str, float]:
    """Metrics of how an answer ended: by itself, or at the limit of tokens."""
    return {"stopped": float(stopped), "overrun": float(not stopped), "tokens": float(tokens)}


def unscored(result: SuiteResult) -> Counter[str]:
    """Why items have no score, and how many; see `reasons`."""
    return reasons(item.why for item in result.items if item.score is None)


def reasons(whys: Iterable[str]) -> Counter[str]:
    """How often each reason stands there; those that differ in numbers alone are one, told by its first example."""
    found, first = Counter[str](), dict[str, str]()
    for why in map(reason, whys):
        found[first.setdefault(NUMBERS.sub("0", why), why)] += 1
    return found


def commonest(whys: Iterable[str]) -> str:
    """The most frequent reason and its count; there is one."""
    (why, count), = reasons(whys).most_common(1)
    return f"most often ({count} times): {why}"


def too_few(name: str, counts: tuple[int, int], least: float, done: str) -> str:
    """That (scored, asked) are too few, e.g. `facts: not measured: 12 of 64 items were judged, ...`."""
    return (f"{name}: not measured: {counts[0]} of {counts[1]} items {done}, at least {100 * least:g} % must be "
            "(eval.min_scored)")


def reason(why: str) -> str:
    """One line of a reason; of a traceback the last one, which names the error."""
    lines = [line.strip() for line in why.splitlines() if line.strip()] or ["no reason was given"]
    raised = len(lines) > 1 and lines[0].startswith(FAILED)
    told = f"{FAILED} {lines[-1]}" if raised else lines[0]
    return told if len(told) <= LONGEST_WHY else f"{told[:LONGEST_WHY].rsplit(' ', 1)[0]} …"


def _stem(folder: Path, suite: str) -> Path:
    return folder / file_name(suite)


def write_results(folder: Path, result: SuiteResult) -> Path:
    """Write a suite's results; the JSON comes last, so a suite that has one is complete. Returns the JSON's path."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = _stem(folder, result.suite)
    rows = [{**{name: whole(said) if isinstance(said, str) else said for name, said in item._asdict().items()},
             "metrics": json.dumps(dict(item.metrics), sort_keys=True)} for item in result.items]
    half = stem.with_name(f".{stem.name}.parquet")
    pq.write_table(pa.Table.from_pylist(rows, schema=COLUMNS), half, compression="zstd")
    half.replace(f"{stem}.parquet")
    path = Path(f"{stem}.json")
    write_json(path, {
        "suite": result.suite, "kind": result.kind, "score": result.score, **result.tally._asdict(),
        "tasks": {t: v._asdict() for t, v in result.tasks().items()}, "metrics": result.metrics(),
        "protocol": dict(result.protocol), "protocol_hash": result.protocol_hash,
        "seconds": result.seconds, "truncated": result.truncated, "model": result.model, "backend": result.backend,
        "scale": result.scale, "looks": result.looks, "vocabulary": result.vocabulary,
        "batch_tokens": result.batch_tokens, "asked": result.n, "min_scored": result.min_scored,
    })
    return path


def read_results(folder: Path, suite: str, *, texts: bool = True) -> SuiteResult:
    """Read what `write_results` wrote; without `texts`, only what scores are compared by: megabytes less per model.

    Raises:
        EvalError: the suite has no complete results in this folder.
    """
    stem = _stem(folder, suite)
    try:
        head = read_json(Path(f"{stem}.json"), "suite", "kind", "protocol", "seconds", "truncated", "model", "backend",
                         "scale", "looks")
        wanted = COLUMNS if texts else pa.schema([column for column in COLUMNS if column.name not in TEXTS])
        rows = pq.read_table(f"{stem}.parquet", schema=wanted).to_pylist()
    except (FileNotFoundError, DamagedFile, pa.ArrowInvalid) as error:
        raise EvalError(f"{folder} has no complete results of suite {suite!r} ({error}); run the evaluation again"
                        ) from error
    items = tuple(
        ItemResult(**{**row, "metrics": json.loads(row["metrics"] or "{}"), "context": row["context"] or ""})
        for row in ({**dict.fromkeys(TEXTS, ""), **row} for row in rows))
    return SuiteResult(head["suite"], head["kind"], head["protocol"], items, head["seconds"], head["truncated"],
                       head["model"], head["backend"], head["scale"], tuple(head["looks"]) if head["looks"] else None,
                       head.get("vocabulary", ""), head.get("batch_tokens", 0), head.get("min_scored", MIN_SCORED))
