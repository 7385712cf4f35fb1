"""Which hub data sets lm-eval's own tasks read, from their YAMLs alone: neither lm-eval nor the hub is asked."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from eval_suites.suites import Suite

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
