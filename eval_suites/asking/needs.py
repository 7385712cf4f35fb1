"""What suites need besides a model, looked at before anything runs: packages, data, files, scorers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from eval_suites.asking.expected import expected
from eval_suites.lm_door.data import hub_ids
from eval_suites.lm_door.lookup import data_sets
from eval_suites.lm_door.needs import missing
from eval_suites.scorers.custom import load_scorer
from eval_suites.suites.items import read_items, read_texts
from eval_suites.suites.suite import LM_PREFIX, Suite, suite
from sft_core.config.evaluate import EvalSection
from sft_core.data.localhub import Absent, why_absent
from sft_core.errors import EvalError


def lacking(reference: str, section: EvalSection, mirror: Path | None) -> list[Absent]:
    """What keeps a suite from being run here as it is, a sentence each with what to do; nothing where all is there.

    Reads the suite's own items and asks the hub once for every data set that is neither in the mirror nor kept from
    an earlier download. Where a share is held back (`eval.held_back`) the data is loaded, to see what each part has.

    Args:
        reference: a suite as a configuration names it.
        section: where published benchmarks and further tasks lie.
        mirror: folder with hub data sets, or None for the hub.
    """
    try:
        chosen = suite(reference)
        return list(_of(chosen, section, mirror)) or list(_parts(chosen, section, mirror))
    except EvalError as error:
        return [Absent("missing", str(error))]


def _of(chosen: Suite, section: EvalSection, mirror: Path | None) -> Iterator[Absent]:
    if chosen.engine == "lm_eval":
        yield from (Absent("missing", said) for said in missing(chosen.tasks))
        yield from _data_sets(chosen, section, mirror)
        return
    data, read = Path(section.data_path) if section.data_path else None, (
        read_texts if chosen.engine == "likelihood" else read_items)
    yield from _told(lambda: read(chosen, data_path=data))
    if chosen.scorer:
        yield from _told(lambda: load_scorer(str(chosen.scorer), chosen.folder))


def _parts(chosen: Suite, section: EvalSection, mirror: Path | None) -> Iterator[Absent]:
    """A part without items: of both, as a search asks first the one and then the other."""
    for part in ("search", "held_back") if section.held_back else ():
        yield from _told(partial(expected, chosen, section.model_copy(update={"part": part}), mirror))


def _data_sets(chosen: Suite, section: EvalSection, mirror: Path | None) -> Iterator[Absent]:
    names = hub_ids(chosen)
    if chosen.name.startswith(LM_PREFIX):
        known = data_sets(chosen.tasks, section.include_path)
        if known is None:
            raise EvalError(f"suite {chosen.name}: lm-eval has no task of this name; `lm-eval ls tasks` lists them; "
                            "tasks of your own go into the folder of eval.include_path (--include-path)")
        names = known
    for name in names:
        if absent := why_absent(name, mirror):
            said = "" if absent.state == "fetched" else (
                f": {absent.why}; where there is no network put it into a folder as {name} and name that folder in "
                "SFT_MIRROR, in data.mirror or with --mirror")
            yield Absent(absent.state, f"suite {chosen.name} needs the data set {name}{said}")


def _told(look: Callable[[], object]) -> Iterator[Absent]:
    try:
        look()
    except EvalError as error:
        yield Absent("missing", str(error))
