"""What suites need besides a model, looked at before anything runs: packages, data, files, scorers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from eval_suites.lm_door.data import hub_ids
from eval_suites.lm_door.needs import missing
from eval_suites.scorers.custom import load_scorer
from eval_suites.suites.items import read_items, read_texts
from eval_suites.suites.suite import Suite, suite
from sft_core.config.evaluate import EvalSection
from sft_core.data.localhub import why_absent
from sft_core.errors import EvalError


def lacking(references: Iterable[str], section: EvalSection, mirror: Path | None) -> list[str]:
    """What keeps these suites from being run here, a sentence each with what to do; nothing where all is there.

    Reads the suites' own items and asks the hub once for every data set that is neither in the mirror nor kept from
    an earlier download. Tasks `lm:TASK` are looked at by their packages alone: where their data lie only lm-eval knows.

    Args:
        references: suites as a configuration names them.
        section: where published benchmarks and further tasks lie.
        mirror: folder with hub data sets, or None for the hub.
    """
    found: dict[str, None] = {}
    for reference in references:
        try:
            chosen = suite(reference)
        except EvalError as error:
            found[str(error)] = None
            continue
        found |= dict.fromkeys(_of(chosen, section, mirror))
    return list(found)


def _of(chosen: Suite, section: EvalSection, mirror: Path | None) -> list[str]:
    if chosen.engine == "lm_eval":
        absent = [(name, why) for name in hub_ids(chosen) if (why := why_absent(name, mirror))]
        return missing(chosen.tasks) + [
            f"suite {chosen.name} needs the data set {name}: {why}; where there is no network put it into a folder as "
            f"{name} and name that folder in SFT_MIRROR, in data.mirror or with --mirror" for name, why in absent]
    data, read = Path(section.data_path) if section.data_path else None, (
        read_texts if chosen.engine == "likelihood" else read_items)
    return _told(lambda: read(chosen, data_path=data)) + (
        _told(lambda: load_scorer(str(chosen.scorer), chosen.folder)) if chosen.scorer else [])


def _told(look: Callable[[], object]) -> list[str]:
    try:
        look()
    except EvalError as error:
        return [str(error)]
    return []
