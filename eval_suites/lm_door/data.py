"""Which hub data sets lm-eval's own tasks read, from their YAMLs alone: neither lm-eval nor the hub is asked.

And what a suite reads from outside this package, so that nobody is shown results of files as they were.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from eval_suites.lm_door.own import read_elsewhere
from eval_suites.suites.items import content_hash
from eval_suites.suites.suite import Suite, load_suites
from sft_core.config.evaluate import EvalSection
from sft_core.data.localhub import stamp
from sft_core.stage import fingerprint

_DATA_SET = re.compile(r"^dataset_path:\s*[\"']?([\w.-]+/[\w.-]+)", re.MULTILINE)


def hub_ids(chosen: Suite) -> list[str]:
    """Hub ids of the data sets in the suite's task folder; none for a suite whose tasks lie in this package."""
    spec = importlib.util.find_spec("lm_eval")
    if chosen.task_folder is None or spec is None or spec.origin is None:
        return []
    folder = Path(spec.origin).parent / "tasks" / chosen.task_folder
    texts = (file.read_text(encoding="utf-8") for file in folder.iterdir() if file.suffix in ("", ".yaml")
             and file.is_file())
    return sorted({found for text in texts for found in _DATA_SET.findall(text)})


def outside(chosen: Suite, section: EvalSection, mirror: Path | None) -> str:
    """Moves with all that a suite asks from outside this package: its items, a benchmark's files, lm-eval tasks of
    one's own with what they name elsewhere (`own.py`), and data sets in the mirror. The hub's own data sets stay as
    they were read.

    Raises:
        EvalError: a published benchmark is asked for without `eval.data_path`.
    """
    own = content_hash(chosen, Path(section.data_path) if section.data_path else None)
    if chosen.engine != "lm_eval":
        return own
    mine = [Path(section.include_path)] if section.include_path else []
    folders = mine + (_data_sets(chosen, mirror) if mirror is not None else [])
    return fingerprint(own, [stamp(folder) for folder in folders if folder.is_dir()],
                       [read_elsewhere(folder) for folder in mine if folder.is_dir()])


def _data_sets(chosen: Suite, mirror: Path) -> list[Path]:
    """The suite's in the mirror; of a task that is not among the shipped suites all that are there."""
    if chosen.folder is None and chosen.name.partition("@")[0] in load_suites():
        return [mirror / name for name in hub_ids(chosen)]
    return [entry for pattern in ("*", "*/*") for entry in sorted(mirror.glob(pattern))]
