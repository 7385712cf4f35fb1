"""The only door to lm-eval: its tasks run unmodified on a model that is already loaded.

Data sets come from the hub, or from a mirror: a folder that holds `cais/mmlu`, `openai/gsm8k`, ... in the shape of hub
snapshots (README with `configs:`). For these a YAML is generated that includes lm-eval's own under the same name and
changes `dataset_path` alone.
"""

from __future__ import annotations

import copy
import difflib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import datasets
import lm_eval.api.task
import lm_eval.evaluator
import lm_eval.tasks
import yaml
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM

from eval_suites.results import ItemResult
from eval_suites.suites import ROOM, Suite
from sft_core.errors import EvalError
from sft_core.progress import Progress, progress
from sft_core.stage import fingerprint

BUILT_IN = Path(lm_eval.tasks.__file__).parent
OWN = ROOM / "lm_tasks"
FEWSHOT_SEED = 1234  # lm-eval's own default
MAX_GEN_TOKS = 256  # lm-eval's own default for tasks that do not say
HEADING, PROMPT_END = re.compile(r"^\s*(?:Question|Q)\s*:\s*"), re.compile(r"\s*\b(?:Answer|A)\s*:\s*$")


class LmRun(NamedTuple):
    """All items of a suite, how many requests lost context to fit the model, and what lm-eval says of each task."""

    items: tuple[ItemResult, ...]
    truncated: int
    tasks: dict[str, dict[str, Any]]  # task → version, few-shot examples, metric that counts
    aggregates: dict[str, dict[str, Any]]  # task or group → lm-eval's own numbers


class _Advancing(CacheHook):  # type: ignore[misc]
    """lm-eval tells its cache of every finished request; here it moves the progress bar."""

    def __init__(self, bar: Progress) -> None:
        super().__init__(None)
        self._bar = bar

    def add_partial(self, attr: str, req: object, res: object) -> None:
        self._bar.advance(1)


class WatchedModel(HFLM):  # type: ignore[misc]
    """lm-eval's HFLM, unchanged in what it computes, that shows progress and counts the contexts it has to cut."""

    def __init__(self, model: Any, tokenizer: Any, batch_size: int, label: str) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal")
        self.truncated = 0
        self._label = label

    @contextmanager
    def _watched(self, requests: Sequence[object]) -> Iterator[None]:
        with progress(self._label, len(requests), "requests") as bar:
            self.set_cache_hook(_Advancing(bar))
            try:
                yield
            finally:
                self.set_cache_hook(CacheHook(None))

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        with self._watched(requests):
            return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        with self._watched(requests):
            return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        with self._watched(requests):
            return super().generate_until(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None) -> Any:
        self.truncated += sum(len(context) + len(answer) > self.max_length + 1 for _, context, answer in requests)
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

    def tok_batch_encode(self, strings: Any, padding_side: str = "left", left_truncate_len: int | None = None,
                         truncation: bool = False) -> Any:
        ids, mask = super().tok_batch_encode(strings, padding_side, None, truncation)
        if left_truncate_len:
            self.truncated += int((mask.sum(dim=1) > left_truncate_len).sum())
            ids, mask = ids[:, -left_truncate_len:], mask[:, -left_truncate_len:]
        return ids, mask


@contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's log lines (one per cut context) and the bars per task and data file."""
    logger = logging.getLogger("lm_eval")
    before, silent = logger.level, datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        with mock.patch.object(lm_eval.api.task, "tqdm", lambda rows, **_: rows):
            yield
    finally:
        logger.setLevel(before)
        if not silent:
            datasets.enable_progress_bars()


class LmDoor:
    """The tasks of one suite, loaded with their data.

    Args:
        chosen: a suite of engine `lm_eval`.
        include_path: folder with further task YAMLs, which win over lm-eval's own.
        mirror: folder with hub data sets.
        scratch: where generated YAMLs are written.

    Raises:
        EvalError: a task is unknown, or its data cannot be read.
    """

    def __init__(self, chosen: Suite, *, include_path: str | None, mirror: Path | None, scratch: Path) -> None:
        self.suite = chosen
        with _quiet():
            manager = _manager(chosen, include_path)
            if mirror is not None:
                _redirect(manager.task_index, mirror, scratch)
            self._loaded = _load(manager, chosen)

    @property
    def tasks(self) -> dict[str, Any]:
        """Task name → lm-eval task, leaves only."""
        return dict(self._loaded["tasks"])

    def questions(self) -> list[tuple[str, str]]:
        """(item id, question) of all items."""
        return [(f"{name}/{number}", question(task, doc)) for name, task in self.tasks.items()
                for number, doc in enumerate(task.eval_docs)]

    def run(self, lm: WatchedModel, *, limit: int | None, max_new_tokens: int | None) -> LmRun:
        """Ask the model everything.

        Raises:
            EvalError: the metric is not there, is not in [0, 1] or is not the mean of its items.
        """
        for task in self.tasks.values():
            _configure(task, self.suite.num_fewshot, max_new_tokens)
        with _quiet():
            found = lm_eval.evaluator.evaluate(
                lm, self._loaded, limit=limit, bootstrap_iters=0, log_samples=True,
                apply_chat_template=self.suite.chat, fewshot_as_multiturn=self.suite.chat)
        items, notes = [], {}
        for name, task in self.tasks.items():
            metric = self.suite.metric or _first_metric(found["results"][name])
            rows = _rows(self.suite.name, task, found["samples"][name], metric)
            _check_mean(rows, name, metric, found["results"][name])
            items += rows
            notes[name] = {"version": found["versions"].get(name), "num_fewshot": found["n-shot"].get(name),
                           "metric": metric}
        return LmRun(tuple(items), lm.truncated, notes, found["results"])


def engine() -> str:
    """Name and version of this engine, for the protocol."""
    return f"lm-eval {version('lm_eval')}"


def language_model(model: Any, tokenizer: Any, batch_size: int, label: str) -> WatchedModel:
    """The loaded model as lm-eval wants it. The tokenizer is copied: lm-eval gives it a pad token."""
    with _quiet():
        return WatchedModel(model, copy.deepcopy(tokenizer), batch_size, label)


def _manager(chosen: Suite, include_path: str | None) -> Any:
    if include_path is not None and not Path(include_path).is_dir():
        raise EvalError(f"eval.include_path: {include_path!r} is not a folder; give one that holds lm-eval task YAMLs")
    folders: list[str | Path] = [OWN]
    if chosen.task_folder:
        folders.insert(0, BUILT_IN / chosen.task_folder)
    if include_path is not None:
        folders.append(include_path)
    manager = lm_eval.tasks.TaskManager(include_path=folders, include_defaults=False)
    if all(name in manager.task_index for name in chosen.tasks):
        return manager
    return lm_eval.tasks.TaskManager(include_path=folders, include_defaults=True)


def _redirect(index: Mapping[str, Any], mirror: Path, scratch: Path) -> None:
    """Point every task whose data set the mirror holds to a YAML that changes `dataset_path` alone.

    The index entry is changed and not a second folder included, because that would also replace the tags' members.
    """
    for name, entry in index.items():
        source = (entry.cfg or {}).get("dataset_path")
        if entry.yaml_path is None or not isinstance(source, str) or not (mirror / source).is_dir():
            continue
        override = scratch / "lm_tasks" / f"{name}.yaml"
        override.parent.mkdir(parents=True, exist_ok=True)
        override.write_text(yaml.safe_dump({
            "include": str(entry.yaml_path), "task": name, "dataset_path": str((mirror / source).resolve())}))
        entry.yaml_path = override


def _load(manager: Any, chosen: Suite) -> Any:
    for name in chosen.tasks:
        if name not in manager.task_index:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            raise EvalError(f"suite {chosen.name}: lm-eval has no task {name!r}; near names are {near}; tasks of your "
                            "own go into the folder eval.include_path")
    try:
        return manager.load(list(chosen.tasks))
    except (OSError, ValueError, KeyError) as error:
        raise EvalError(f"suite {chosen.name}: the tasks {list(chosen.tasks)} cannot be loaded: {error}; without a "
                        "network point SFT_MIRROR to a folder with their hub data sets") from error


def _configure(task: Any, num_fewshot: int | None, max_new_tokens: int | None) -> None:
    """As lm-eval's simple_evaluate does: a task that insists on no examples keeps none."""
    own = task.get_config("num_fewshot")
    if own is None or (num_fewshot is not None and own != 0):
        task.set_config(key="num_fewshot", value=num_fewshot or 0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    if max_new_tokens is not None and task.get_config("output_type") == "generate_until":
        longest = task.get_config("generation_kwargs").get("max_gen_toks", MAX_GEN_TOKS)
        task.set_config(key="generation_kwargs", value={"max_gen_toks": min(longest, max_new_tokens)}, update=True)


def question(task: Any, doc: Mapping[str, Any]) -> str:
    """The question alone: its column where there is one, else the task's text without its headings."""
    own = doc.get("question")
    text = own if isinstance(own, str) else str(task.doc_to_text(doc))
    return PROMPT_END.sub("", HEADING.sub("", text)).strip()


def _first_metric(results: Mapping[str, Any]) -> str:
    return next(key for key in results if "," in key and "_stderr," not in key)


def _rows(suite: str, task: Any, samples: Sequence[Mapping[str, Any]], metric: str) -> list[ItemResult]:
    """One row per document; lm-eval logs one sample per document and filter."""
    by_doc: dict[int, list[Mapping[str, Any]]] = {}
    for sample in samples:
        by_doc.setdefault(sample["doc_id"], []).append(sample)
    return [_row(suite, task, by_doc[doc_id], metric) for doc_id in sorted(by_doc)]


def _row(suite: str, task: Any, samples: Sequence[Mapping[str, Any]], metric: str) -> ItemResult:
    metrics = {f"{name},{sample['filter']}": float(sample[name]) for sample in samples for name in sample["metrics"]
               if isinstance(sample[name], int | float)}
    first = samples[0]
    name, value = task.config.task, metrics.get(metric)
    item_id = f"{name}/{first['doc_id']}"
    if value is not None and not 0.0 <= value <= 1.0:
        raise EvalError(f"{item_id}: {metric} is {value}, and scores lie in [0, 1]; choose another metric for {suite}")
    answer, target = _said(task, first)
    own = first["doc"].get("cluster")
    return ItemResult(
        suite=suite, task=name, item_id=item_id, cluster=own if isinstance(own, str) else item_id, score=value,
        metrics=metrics, prompt=question(task, first["doc"]), answer=answer, target=target,
        why="" if value == 1.0 else f"{metric} is {value}",
        asked=fingerprint(first["doc_hash"], first["prompt_hash"], first["target_hash"]))


def _said(task: Any, sample: Mapping[str, Any]) -> tuple[str, str]:
    """What the model answered and what was expected, as text."""
    target = sample["target"]
    if task.OUTPUT_TYPE != "multiple_choice":
        return str(sample["resps"][0][0]), str(target)
    choices = task.doc_to_choice(sample["doc"])
    likelihoods = [pair[0] for pair in sample["filtered_resps"]][:len(choices)]
    chosen = choices[max(range(len(likelihoods)), key=likelihoods.__getitem__)]
    return str(chosen), str(choices[target] if isinstance(target, int) and target < len(choices) else target)


def _check_mean(rows: Sequence[ItemResult], task: str, metric: str, results: Mapping[str, Any]) -> None:
    if metric not in results:
        raise EvalError(f"task {task} has no metric {metric!r}; it has {sorted(k for k in results if ',' in k)}")
    scores = [row.score for row in rows if row.score is not None]
    mean = sum(scores) / len(scores) if scores else None
    if mean is None or abs(mean - float(results[metric])) > 1e-9:
        raise EvalError(f"{metric} of task {task} is {results[metric]} by lm-eval and {mean} as the mean of its "
                        "items; only metrics that are such a mean can be compared with an interval; choose another one")
