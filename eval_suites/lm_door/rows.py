"""lm-eval's samples as item results, and the check that their mean is lm-eval's own number."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from numbers import Real
from typing import Any, NamedTuple
from unittest import mock

from eval_suites.results import AT, OF, SCORER_ERRORS, ItemResult, scorer_failed
from sft_core.errors import EvalError
from sft_core.stage import fingerprint
from sft_core.stopping import check

HEADING, PROMPT_END = re.compile(r"^\s*(?:Question|Q)\s*:\s*"), re.compile(r"\s*\b(?:Answer|A)\s*:\s*$")
NATS = {"word_perplexity": "words", "byte_perplexity": "bytes"}
"""Metrics of perplexity tasks whose samples are (log-likelihood, weight), and what the weight counts."""
BYTES = "byte_perplexity"
KINDS, STRICT = "instruction_id_list", "strict"
"""IFEval's column of the instructions of a prompt, and what tells its strict metrics from the loose ones."""
LONGEST_READ = 60


class Told(NamedTuple):
    """What lm-eval's samples do not say: context → why it has no answer, id of an item → why it has no score, context →
    how its free answer ended (`results.ended`)."""

    answer: Mapping[str, str]
    score: Mapping[str, str]
    ended: Mapping[str, Mapping[str, float]]


class Question(NamedTuple):
    """One item of a task as decontamination looks for it."""

    item_id: str
    text: str
    answers: tuple[str, ...]
    choices: tuple[str, ...]


def asked(task: Any, doc: Mapping[str, Any], item_id: str) -> Question:
    """Question, the options where there are several, else the text that solves it.

    Tasks that ask for a letter have their options in the column `choices`, a list or ARC's {text, label}.
    """
    own = doc.get("choices")
    own = own.get("text") if isinstance(own, Mapping) else own
    choices = own if own or task.OUTPUT_TYPE != "multiple_choice" else task.doc_to_choice(doc)
    target = None if choices else task.doc_to_target(doc)
    return Question(item_id, question(task, doc), _texts_of(target), _texts_of(choices))


def _texts_of(found: Any) -> tuple[str, ...]:
    """Of one text or several; numbers are places in a list and no texts."""
    return tuple(one for one in (found if isinstance(found, list | tuple) else [found]) if isinstance(one, str))


def question(task: Any, doc: Mapping[str, Any]) -> str:
    """The question alone: its column where there is one, else the task's text without its headings."""
    own = doc.get("question")
    text = own if isinstance(own, str) else str(task.doc_to_text(doc))
    return PROMPT_END.sub("", HEADING.sub("", text)).strip()


def first_metric(results: Mapping[str, Any]) -> str:
    """The first metric of a task as `metric,filter`; of a perplexity task that per byte.

    Where no item has any, a name that stands for it.
    """
    names = [key for key in results if "," in key and "_stderr," not in key]
    return next((name for name in names if name.startswith(BYTES)), names[0] if names else "its metric")


class Guard:
    """What a task's own code breaks is told and not raised: one item by its metric, all of them by a filter or by the
    aggregation of the metric that counts. A number that is not finite is left out, too.

    Args:
        task: lm-eval's.
        ids: identity of a document → id of its item.
    """

    def __init__(self, task: Any, ids: Mapping[int, str]) -> None:
        self._process, self._filter, self._aggregation = task.process_results, task.apply_filters, task.aggregation
        self._task, self._ids = task, ids
        self.unscored: dict[str, str] = {}
        """Id of an item → why it has no score."""
        self.broken: dict[str, str] = {}
        """Metric → why its aggregation failed."""
        self._unfiltered = ""

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """The task, guarded."""
        with mock.patch.multiple(self._task, process_results=self._processed, apply_filters=self._filtered,
                                 aggregation=self._aggregations):
            yield

    def _filtered(self) -> None:
        try:
            self._filter()
        except SCORER_ERRORS as error:
            self._unfiltered = scorer_failed(error)
            for instance in self._task.instances:
                instance.filtered_resps = {"none": instance.resps[0]}

    def _processed(self, doc: Any, results: Any) -> dict[str, Any]:
        check()
        if self._unfiltered:
            self.unscored[self._ids[id(doc)]] = self._unfiltered
            return {}
        try:
            found = dict(self._process(doc, results))
        except SCORER_ERRORS as error:
            self.unscored[self._ids[id(doc)]] = scorer_failed(error)
            return {}
        bad = [name for name, value in found.items() if isinstance(value, Real) and not math.isfinite(value)]
        if bad:
            self.unscored[self._ids[id(doc)]] = f"{bad[0]} is {found[bad[0]]}"
        return {name: value for name, value in found.items() if name not in bad}

    def _aggregations(self) -> dict[str, Callable[[Any], Any]]:
        return {name: partial(self._aggregated, name, function) for name, function in self._aggregation().items()}

    def _aggregated(self, name: str, function: Callable[[Any], Any], values: Any) -> Any:
        try:
            return function(values)
        except SCORER_ERRORS as error:
            self.broken[name] = scorer_failed(error)
            return math.nan

    def scored(self, found: Sequence[ItemResult], metric: str) -> list[ItemResult]:
        """The rows, without scores where nobody could check them against the metric of the whole."""
        why = self.broken.get(metric.partition(",")[0])
        return list(found) if why is None else [row._replace(score=None, metrics={}, why=why) for row in found]


def rows(suite: str, task: Any, samples: Sequence[Mapping[str, Any]], metric: str,
         why: Told, cluster: str) -> list[ItemResult]:
    """One row per document; lm-eval logs one sample per document and filter. Documents that say the same in the column
    `cluster` are not independent.

    Raises:
        EvalError: the metric is not in [0, 1].
    """
    by_doc: dict[int, list[Mapping[str, Any]]] = {}
    for sample in samples:
        by_doc.setdefault(sample["doc_id"], []).append(sample)
    return [_row(suite, task, by_doc[doc_id], metric, why, cluster) for doc_id in sorted(by_doc)]


def cluster_of(doc: Mapping[str, Any], item_id: str, column: str) -> str:
    """What a document says in the column; without words there it is a cluster of its own."""
    own = doc.get(column)
    return own if isinstance(own, str) else item_id


def _row(suite: str, task: Any, samples: Sequence[Mapping[str, Any]], metric: str,
         without: Told, cluster: str) -> ItemResult:
    first = samples[0]
    name = task.config.task
    item_id = f"{name}/{first['doc_id']}"
    answer, target = _said(task, first)
    row = ItemResult(
        suite=suite, task=name, item_id=item_id, cluster=cluster_of(first["doc"], item_id, cluster), score=None,
        metrics={}, prompt=question(task, first["doc"]), answer=answer, target=target, why="",
        asked=fingerprint(first["doc_hash"], first["prompt_hash"], first["target_hash"]),
        ids=fingerprint(first["prompt_hash"]),
        context="" if BYTES in first["metrics"] else str(first["arguments"][0][0]))
    if why := next((without.answer[args[0]] for args in first["arguments"] if args[0] in without.answer),
                   _not_finite(first)):
        return row._replace(why=why)
    if BYTES in first["metrics"]:
        return _measured(row, first)
    metrics = {f"{key},{sample['filter']}": float(sample[key]) for sample in samples for key in sample["metrics"]
               if isinstance(sample[key], int | float)} | _marks(samples)
    metrics |= without.ended.get(first["arguments"][0][0], {})
    value = metrics.get(metric)
    if value is not None and not 0.0 <= value <= 1.0:
        raise EvalError(f"{item_id}: {metric} is {value}, and scores lie in [0, 1]; choose another metric for {suite}")
    if value is None:
        return row._replace(metrics=metrics, why=without.score.get(item_id, f"{_in_words(metric)}: None"))
    return row._replace(score=value, metrics=metrics, why="" if value == 1.0 else _missing(samples, metric, value),
                        chance=_chance(task, first, value))


def _marks(samples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Metrics that mark several parts of an answer, as IFEval's instructions: the share that is right and of how many
    (`OF`), all together and, as `metric,filter|KIND`, of each kind of instruction."""
    found: dict[str, float] = {}
    for sample in samples:
        for key in sample["metrics"]:
            marks = sample[key]
            if not isinstance(marks, list) or not marks or not all(isinstance(one, bool) for one in marks):
                continue
            kinds = sample["doc"].get(KINDS, ())
            parts = {f"{key},{sample['filter']}": marks}
            if len(kinds) == len(marks):
                for kind, mark in zip(kinds, marks, strict=True):
                    parts.setdefault(f"{key},{sample['filter']}{AT}{kind}", []).append(mark)
            for name, some in parts.items():
                found |= {name: sum(some) / len(some), name + OF: float(len(some))}
    return found


def _missing(samples: Sequence[Mapping[str, Any]], metric: str, value: float) -> str:
    """Why an answer has not the whole score: which instructions it does not follow, or what was read out of it."""
    sample = next((one for one in samples if metric.endswith(f",{one['filter']}")), samples[0])
    missed = dict.fromkeys(name.partition(AT)[2] for name, share in _marks([sample]).items()
                           if AT in name and not name.endswith(OF) and share < 1.0 and STRICT in name)
    if missed:
        return f"not followed: {', '.join(missed)}"
    read = sample["filtered_resps"]
    said = f": {str(read[0])[:LONGEST_READ]!r} was read out of the answer" if sample["filter"] != "none" else ""
    return f"{_in_words(metric)}: {value}{said}"


def _in_words(metric: str) -> str:
    """lm-eval's `metric,filter` as a reader would say it."""
    name, _, read_by = metric.partition(",")
    return name if read_by in ("", "none") else f"{name} ({read_by})"


def _chance(task: Any, sample: Mapping[str, Any], score: float) -> float:
    """What guessing gives of a choice that is right or wrong; a share of probability has no such floor."""
    choice = task.OUTPUT_TYPE == "multiple_choice" and isinstance(sample["target"], int) and score in (0.0, 1.0)
    return 1 / len(task.doc_to_choice(sample["doc"])) if choice else 0.0


def _not_finite(sample: Mapping[str, Any]) -> str:
    """Why a text has no likelihood: lm-eval gives a rolling one as a number."""
    found = [one for group in sample["resps"] for one in group if isinstance(one, float)]
    return "" if all(math.isfinite(one) for one in found) else "the model's logits are not finite"


def _measured(row: ItemResult, sample: Mapping[str, Any]) -> ItemResult:
    """A text of a perplexity task: minus nats per byte, weighing its bytes."""
    loglikelihood, count = sample[BYTES]
    metrics = {"nats": -float(loglikelihood)}
    metrics |= {what: float(sample[key][1]) for key, what in NATS.items() if key in sample["metrics"]}
    return row._replace(score=float(loglikelihood) / count, weight=float(count), metrics=metrics, answer="")


def _said(task: Any, sample: Mapping[str, Any]) -> tuple[str, str]:
    """What the model answered and what was expected, as text."""
    target = sample["target"]
    if task.OUTPUT_TYPE != "multiple_choice":
        return str(sample["resps"][0][0]), str(target)
    choices = task.doc_to_choice(sample["doc"])
    likelihoods = [pair[0] for pair in sample["filtered_resps"]][:len(choices)]
    chosen = choices[max(range(len(likelihoods)), key=likelihoods.__getitem__)]
    return str(chosen), str(choices[target] if isinstance(target, int) and target < len(choices) else target)


def check_mean(found: Sequence[ItemResult], task: str, metric: str, results: Mapping[str, Any]) -> None:
    """The items must come to lm-eval's own number, unless some have no answer.

    Raises:
        EvalError: they do not, or there is no such metric.
    """
    unscored = [row for row in found if row.score is None and row.why and row.why != f"{_in_words(metric)}: None"]
    if metric not in results and len(unscored) < len(found):
        raise EvalError(f"task {task} has no metric {metric!r}; it has {sorted(k for k in results if ',' in k)}")
    if unscored:
        return
    mean, theirs = _mean(found, metric), float(results[metric])
    if mean is None or abs(mean - theirs) > 1e-9 * max(1.0, abs(theirs)):
        raise EvalError(f"{metric} of task {task} is {theirs} by lm-eval and {mean} as the mean of its "
                        "items; only metrics that are such a mean can be compared with an interval; choose another one")


def _mean(found: Sequence[ItemResult], metric: str) -> float | None:
    """Mean score, or perplexity over all texts."""
    counted = NATS.get(metric.partition(",")[0])
    if counted is not None:
        return math.exp(sum(row.metrics["nats"] for row in found) / sum(row.metrics[counted] for row in found))
    scores = [row.score for row in found if row.score is not None]
    return sum(scores) / len(scores) if scores else None
