"""The only door to lm-eval: its tasks run unmodified on a model that is already loaded.

Data sets come from the hub, or from a mirror: a folder that holds `cais/mmlu`, `openai/gsm8k`, ... in the shape of hub
snapshots (README with `configs:`). For these a YAML is generated that includes lm-eval's own under the same name and
changes `dataset_path` alone.
"""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import datasets
import lm_eval.api.task
import lm_eval.evaluator
import lm_eval.tasks
import lm_eval.utils
import yaml
from lm_eval.api.samplers import FirstNSampler

from eval_suites.backends.contract import Backend
from eval_suites.backends.local import Local
from eval_suites.lm_door.model import FastModel
from eval_suites.lm_door.needs import require
from eval_suites.lm_door.own import forget_code, local_files
from eval_suites.lm_door.rows import Guard, Question, Told, asked, check_mean, cluster_of, first_metric, rows
from eval_suites.results import ItemResult
from eval_suites.suites.suite import ROOM, Suite
from sft_core.data.localhub import named_by_content
from sft_core.errors import EvalError
from sft_core.stage import write_text
from sft_core.stopping import check

BUILT_IN = Path(lm_eval.tasks.__file__).parent
OWN = ROOM / "lm_tasks"
FEWSHOT_SEED = 1234  # lm-eval's own default
MAX_GEN_TOKS = 256  # lm-eval's own default for tasks that do not say


class LmRun(NamedTuple):
    """All items of a suite, how many requests lost context to fit the model, and what lm-eval says of each task."""

    items: tuple[ItemResult, ...]
    truncated: int
    tasks: dict[str, dict[str, Any]]  # task → version, few-shot examples, metric that counts
    aggregates: dict[str, dict[str, Any]]  # task or group → lm-eval's own numbers


@contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's log lines (one per cut context) and the bars per task and data file.

    Its templates are compiled once and not for every example of every document (GSM8K: 15,832 times, 13 s).
    """
    logger = logging.getLogger("lm_eval")
    before, silent = logger.level, datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        compiled = lru_cache(maxsize=256)(lm_eval.utils.env.from_string)
        with (mock.patch.object(lm_eval.api.task, "tqdm", lambda rows, **_: rows),
              mock.patch.object(lm_eval.utils.env, "from_string", compiled)):
            yield
    finally:
        logger.setLevel(before)
        if not silent:
            datasets.enable_progress_bars()


@contextmanager
def same_languages() -> Iterator[None]:
    """langdetect, which IFEval asks in what language an answer is, draws at random: here the same draws each time, so
    that an answer keeps its score."""
    factory = getattr(sys.modules.get("langdetect"), "DetectorFactory", None)
    with mock.patch.object(factory, "seed", 0) if factory else nullcontext():
        yield


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
        if include_path is not None:
            forget_code(Path(include_path))
        with _quiet():
            manager = _manager(chosen, include_path)
            _redirect(manager.task_index, mirror, scratch)
            self._loaded = _load(manager, chosen)

    @property
    def tasks(self) -> dict[str, Any]:
        """Task name → lm-eval task, leaves only."""
        return dict(self._loaded["tasks"])

    def questions(self) -> list[Question]:
        """Question, answers and options of all items."""
        return [asked(task, doc, f"{name}/{number}") for name, task in self.tasks.items()
                for number, doc in enumerate(task.eval_docs)]

    @property
    def strata(self) -> dict[str, list[str]]:
        """Task → ids of its items."""
        return {name: [f"{name}/{number}" for number in range(len(task.eval_docs))]
                for name, task in self.tasks.items()}

    @property
    def clusters(self) -> dict[str, str]:
        """Id of an item → its group, whose members are not independent."""
        docs = {f"{name}/{number}": doc for name, task in self.tasks.items() for number, doc in
                enumerate(task.eval_docs)}
        return {one: cluster_of(doc, one, self.suite.cluster) for one, doc in docs.items()}

    def run(self, lm: FastModel, *, chosen: Collection[str] | None, max_new_tokens: int | None) -> LmRun:
        """Ask the model the items with these ids (None: all), in the words in which all of them would be asked.

        Raises:
            EvalError: the metric is not there, is not in [0, 1] or is not the mean of its items.
        """
        before, guards = len(lm.truncated), dict[str, Guard]()
        with _quiet(), same_languages(), ExitStack() as stack:
            for name, task in self.tasks.items():
                check()
                _configure(task, self.suite.num_fewshot, max_new_tokens)
                stack.enter_context(self._narrowed(name, task, lm, chosen))
                ids = {id(doc): f"{name}/{number}" for number, doc in task.doc_iterator()}
                guards[name] = Guard(task, ids)
                stack.enter_context(guards[name]())
            asked = {name: task for name, task in self.tasks.items() if task.instances}
            found = lm_eval.evaluator.evaluate(
                lm, {"tasks": asked, "groups": {}, "group_map": {}}, bootstrap_iters=0, log_samples=True,
                system_instruction=self.suite.system, apply_chat_template=self.suite.chat,
                fewshot_as_multiturn=self.suite.chat)
        items, notes = [], {}
        for name, task in asked.items():
            metric = self.suite.metric or first_metric(found["results"][name])
            made = rows(self.suite.name, task, found["samples"][name], metric,
                        Told(lm.failed, guards[name].unscored, lm.ended), self.suite.cluster)
            made = guards[name].scored(made, metric)
            check_mean(made, name, metric, found["results"][name])
            items += made
            notes[name] = {"version": found["versions"].get(name), "num_fewshot": found["n-shot"].get(name),
                           "metric": metric}
        return LmRun(tuple(items), len(lm.truncated) - before, notes, found["results"])

    @contextmanager
    def _narrowed(self, name: str, task: Any, lm: FastModel, chosen: Collection[str] | None) -> Iterator[None]:
        """The task asks the chosen documents alone, with few-shot examples as they are drawn when all are asked.

        A sampler that draws at random goes on from document to document, so then all prompts are built.
        """
        numbers = [i for i in range(len(task.eval_docs)) if chosen is None or f"{name}/{i}" in chosen]
        some = [(i, task.eval_docs[i]) for i in numbers]
        drawing = task.config.num_fewshot and not isinstance(getattr(task, "sampler", None), FirstNSampler)
        if numbers and drawing:
            self._build(task, lm)
        with mock.patch.object(task, "doc_iterator", side_effect=lambda **_: iter(some)):
            if numbers and not drawing:
                self._build(task, lm)
            kept = set(numbers)
            task._instances = [one for one in task._instances if one.doc_id in kept] if numbers else []
            with mock.patch.object(task, "build_all_requests", return_value=None):
                yield

    def _build(self, task: Any, lm: FastModel) -> None:
        """As lm-eval's evaluate does."""
        task.build_all_requests(
            limit=None, rank=0, world_size=1, system_instruction=self.suite.system, apply_chat_template=self.suite.chat,
            fewshot_as_multiturn=self.suite.chat, chat_template=lm.apply_chat_template if self.suite.chat else None)


def engine() -> str:
    """Name and version of this engine, for the protocol."""
    return f"lm-eval {version('lm_eval')}"


def language_model(model: Any, tokenizer: Any, batch_tokens: int | None, label: str,
                   backend: Backend | None = None) -> FastModel:
    """The loaded model as lm-eval wants it, behind a backend (default: in this process)."""
    with _quiet():
        return FastModel(model, tokenizer, backend or Local(model, batch_tokens), label)


def _manager(chosen: Suite, include_path: str | None) -> Any:
    if include_path is not None and not Path(include_path).is_dir():
        raise EvalError(f"eval.include_path (--include-path): {include_path!r} is not a folder; give one that "
                        "holds lm-eval task YAMLs")
    folders: list[str | Path] = [OWN]
    if chosen.task_folder:
        folders.insert(0, BUILT_IN / chosen.task_folder)
    if include_path is not None:
        folders.append(include_path)
    manager = lm_eval.tasks.TaskManager(include_path=folders, include_defaults=False)
    if all(name in manager.task_index for name in chosen.tasks):
        return manager
    return lm_eval.tasks.TaskManager(include_path=folders, include_defaults=True)


def _redirect(index: Mapping[str, Any], mirror: Path | None, scratch: Path) -> None:
    """Point every task whose data set the mirror holds, or whose data are files of this machine, to a YAML that changes
    `dataset_path` or `data_files` alone: `datasets` keeps what it has read by names and times, not by content.

    The index entry is changed and not a second folder included, because that would also replace the tags' members.
    """
    named: dict[Path, str] = {}
    links = (scratch / "hub").absolute()

    def link(place: Path) -> str:
        return named.setdefault(place, str(named_by_content(place, links)))

    for name, entry in index.items():
        check()
        if entry.yaml_path is not None and (changed := _changed(entry.cfg or {}, mirror, link)):
            override = scratch / "lm_tasks" / f"{name}.yaml"
            write_text(override, yaml.safe_dump({  # another process may be reading it
                "include": str(entry.yaml_path), "task": name, **changed}))
            entry.yaml_path = override


def _changed(task: Mapping[str, Any], mirror: Path | None, link: Callable[[Path], str]) -> dict[str, Any]:
    source, given = task.get("dataset_path"), task.get("dataset_kwargs")
    if not isinstance(source, str):
        return {}
    if mirror is not None and (mirror / source).is_dir():
        return {"dataset_path": link(mirror / source)}
    if (folder := Path(source)).is_dir():
        return {"dataset_path": link(folder)}
    if not isinstance(given, dict) or not local_files(given.get("data_files")):
        return {}
    return {"dataset_kwargs": {**given, "data_files": _linked(given["data_files"], link)}}


def _linked(files: Any, link: Callable[[Path], str]) -> Any:
    if isinstance(files, dict):
        return {split: _linked(some, link) for split, some in files.items()}
    return [name for one in (files if isinstance(files, list) else [files])
            for name in ([link(place) for place in local_files(one)] or [one])]


def _load(manager: Any, chosen: Suite) -> Any:
    for name in chosen.tasks:
        if name not in manager.task_index:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            hint = f"near names are {', '.join(near)}" if near else "`lm-eval ls tasks` lists them"
            raise EvalError(f"suite {chosen.name}: lm-eval has no task {name!r}; {hint}; tasks of your own go into the "
                            "folder of eval.include_path (--include-path)")
    require(chosen.tasks)
    try:
        return manager.load(list(chosen.tasks))
    except (OSError, ValueError, KeyError) as error:
        raise EvalError(f"suite {chosen.name}: the tasks {list(chosen.tasks)} cannot be loaded: {error}; without a "
                        "network put their data sets into a folder as org/name and name it in SFT_MIRROR, in --mirror, "
                        "or in data.mirror of a configuration") from error


def _configure(task: Any, num_fewshot: int | None, max_new_tokens: int | None) -> None:
    """As lm-eval's simple_evaluate does: a task that insists on no examples keeps none."""
    own = task.get_config("num_fewshot")
    if own is None or (num_fewshot is not None and own != 0):
        task.set_config(key="num_fewshot", value=num_fewshot or 0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    if max_new_tokens is not None and task.get_config("output_type") == "generate_until":
        longest = task.get_config("generation_kwargs").get("max_gen_toks", MAX_GEN_TOKS)
        task.set_config(key="generation_kwargs", value={"max_gen_toks": min(longest, max_new_tokens)}, update=True)
