"""Prepared examples, raw rows and suites in a form that a person can read."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.text import Text

from eval_suites.lm_door.data import hub_ids
from eval_suites.results import Expected, SuiteResult, commonest, enough, too_few, unscored
from eval_suites.suites.suite import Suite, load_suites
from sft_core.config.evaluate import GateSection
from sft_core.config.experiment import ExperimentConfig
from sft_core.conversation import Origin, Row
from sft_core.errors import ConfigError, DataError, EvalError
from sft_core.stage import read_json
from tasks.inputs import replay_sources
from tasks.stages import Done, Workspace


class Wanted(NamedTuple):
    """Which rows to show: the first, counted from 0, how many, and whether as they are packed."""

    first: int
    most: int
    packed: bool = False


def shown_rows(config: ExperimentConfig, prepared: Done, place: Workspace, wanted: Wanted) -> Iterator[Text]:
    """Training examples, or packed rows, with trained tokens green, context dim and control tokens cyan.

    Raises:
        DataError: there is no such row.
        ConfigError: packed rows are wanted and `data.pack` is off.
    """
    from sft_core.data.show import view_to_rich

    tokenizer = _tokenizer(config, prepared, place)
    for view in _views(config, prepared, wanted):
        yield view_to_rich(view, tokenizer)


def view_rows(config: ExperimentConfig, prepared: Done, place: Workspace, wanted: Wanted) -> list[str]:
    """The same as parts of a page, see `tasks/pages/masks.py`.

    Raises:
        DataError: there is no such row.
        ConfigError: packed rows are wanted and `data.pack` is off.
    """
    from sft_core.data.show import view_to_html

    tokenizer = _tokenizer(config, prepared, place)
    return [view_to_html(view, tokenizer) for view in _views(config, prepared, wanted)]


def telling_rows(config: ExperimentConfig, prepared: Done, place: Workspace) -> list[str]:
    """The same of the few examples that show most, with why they were chosen."""
    from sft_core.data.examples import load_examples
    from sft_core.data.show import Segment, View, telling, view_to_html

    tokenizer, examples = _tokenizer(config, prepared, place), load_examples(prepared.folder / "train.parquet")
    return [view_to_html(View(number, (Segment(number, examples[number]),), why=why), tokenizer)
            for number, why in telling(examples)]


def held_rows(wanted: Collection[Origin], config: ExperimentConfig, place: Workspace) -> dict[Origin, str]:
    """What these rows of the sources hold, as JSON; nothing of one that could not be read."""
    from sft_core.data.sources import name_of, read_rows

    found: dict[Origin, str] = {}
    for source in (*config.data.sources, *replay_sources(config)):
        left = {origin for origin in wanted if origin.source == name_of(source)}
        rows = read_rows(source, scratch=place.scratch, mirror=place.mirror) if left else iter(())
        while left and (row := next(rows, None)) is not None:
            if row.origin in left:
                left.discard(row.origin)
                if isinstance(row, Row):
                    found[row.origin] = json.dumps(dict(row.data), ensure_ascii=False, default=str)
    return found


def suite_rows(data_path: Path | None, mirror: Path | None) -> list[dict[str, object]]:
    """One row per shipped suite; loads no model and asks no hub."""
    return [_suite_row(one, data_path, mirror) for one in load_suites().values()]


def _suite_row(one: Suite, data_path: Path | None, mirror: Path | None) -> dict[str, object]:
    from eval_suites.suites.items import read_items, read_texts
    from eval_suites.verdict.power import Terms, promise

    items, clusters, state = one.published_items, one.published_clusters, "ready"
    if one.engine == "lm_eval":
        missing = [name for name in hub_ids(one) if mirror is None or not (mirror / name).is_dir()]
        state = f"needs {', '.join(missing)}: from the hub, or in --mirror (SFT_MIRROR)" if missing else "ready"
    else:
        try:
            read = (read_texts if one.engine == "likelihood" else read_items)(one, data_path=data_path)
        except EvalError as error:
            asked = one.reader and data_path is None
            state = f"needs {one.items} below --data-path (eval.data_path)" if asked else str(error).splitlines()[0]
        else:
            items, clusters = len(read), len({item.cluster for item in read})
    found = None
    if items:
        found = promise(Expected(one.name, one.kind, one.scale, items, clusters or items), Terms(GateSection()))
    return {"suite": one.name, "kind": one.kind, "items": items, "protocol": _protocol(one),
            "detectable": found and _rounded(found.best.difference),
            "alike": found and _rounded(found.worst.difference), "data": one.items or ", ".join(one.tasks),
            "here": state, "about": one.about}


def _rounded(points: float | None) -> float | None:
    return None if points is None else round(points, 1)


def _protocol(one: Suite) -> str:
    if one.engine == "lm_eval":
        parts = ["chat" if one.chat else "completion"]
        parts += [f"{one.num_fewshot}-shot"] if one.num_fewshot is not None else []
        return ", ".join([*parts, *([one.metric] if one.metric else [])])
    return "chat" if one.through_template else "text"


def check_measured(results: Mapping[str, SuiteResult]) -> None:
    """Raises EvalError where too few items of a suite were scored, as behind a server that is down. What waits for a
    judge need only be answered."""
    from eval_suites.judge.talk import unjudged

    said = []
    for name, result in results.items():
        waits = unjudged(result)
        left = [item.why for item in result.items if item.score is None and not (waits and item.answered)]
        counts = result.n - len(left), result.n
        if not enough(*counts, result.min_scored):
            few = too_few(name, counts, result.min_scored, "were answered" if waits else "were scored")
            said.append(f"{few}; {commonest(left)}")
    if said:
        raise EvalError("; ".join(said))


def remarks(results: Mapping[str, SuiteResult]) -> list[str]:
    """What a table of scores does not say: items without a score and why, contexts that were cut, refusal rates
    corrected for the scorer's errors, and what other forms of the questions, or other languages, cost."""
    from eval_suites.judge.calibrate import corrected, shown_rate
    from eval_suites.statistics.robustness import drops, shown_drop

    said = []
    for name, result in results.items():
        said += [f"{name}: {count} of {result.n} items without a score, which are no zeros: {why}"
                 for why, count in unscored(result).most_common()]
        if result.score is None and result.tally.scored:
            said.append(too_few(name, (result.tally.scored, result.n), result.min_scored, "were scored"))
        if result.truncated:
            said.append(f"{name}: {result.truncated} requests were longer than the model's context, which lost its "
                        "beginning")
        said += [f"{name}: {rate.task}: {shown_rate(rate)}" for rate in corrected(result)]
        said += [f"{name}: {drop.variant} costs {shown_drop(drop)} points, paired over {drop.items} items"
                 for drop in drops(result)]
    return said


def _views(config: ExperimentConfig, prepared: Done, wanted: Wanted) -> list[Any]:
    from sft_core.data.examples import load_examples
    from sft_core.data.show import Segment, View
    from sft_core.train.course import Packing

    if wanted.packed and not config.data.pack:
        raise ConfigError("data.pack is off: every row holds one example; leave --packed out, or set data.pack=true")
    examples = load_examples(prepared.folder / "train.parquet")
    rows = Packing(config.data.max_tokens, pack=wanted.packed, seed=config.seed).rows(examples, "sft", epoch=0) \
        if wanted.packed else [(number,) for number in range(len(examples))]
    if wanted.first >= len(rows):
        kind = "packed row" if wanted.packed else "training example"
        raise DataError(f"there is no {kind} {wanted.first}; there are {len(rows)}, counted from 0")
    width = config.data.max_tokens if wanted.packed else None
    return [View(wanted.first + at, tuple(Segment(number, examples[number]) for number in row), width)
            for at, row in enumerate(rows[wanted.first : wanted.first + wanted.most])]


def _tokenizer(config: ExperimentConfig, prepared: Done, place: Workspace) -> Any:
    """The base's tokenizer with the tokens that the template added."""
    from sft_core.model.load import load_tokenizer, locate
    from sft_core.templates.choose import add_tokens

    tokenizer = load_tokenizer(config.model, locate(config.model, place.mirror))
    add_tokens(tokenizer, read_json(prepared.folder / "template.json")["added_tokens"])
    return tokenizer
