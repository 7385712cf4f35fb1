"""The trials of a sweep as a user without this platform runs them.

For each a script that trains with TRL, lm-eval's own CLI for the base and the tuned model, and a plain script per suite
that lm-eval lacks; as many at a time as the sweep has workers, one thread each.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.evaluation import ROOT, Plan, Where, call, theirs
from eval_suites.results import SuiteResult
from eval_suites.suites.suite import suite
from sft_core.tiny.paths import BASE_FOLDER

LM_TOKENS = 48  # as the task tiny_gsm8k has it


def scripts(trials: Sequence[Path], prepared: Path, results: Sequence[SuiteResult], root: Path,
            at_a_time: int) -> float:
    """Seconds of wall clock for all trials.

    Args:
        trials: their configurations, with learning rate and epochs.
        prepared: the sweep's tokenised rows.
        results: whose items are asked.
        root: an empty folder.
        at_a_time: scripts that run at once.
    """
    begun = time.monotonic()
    with ThreadPoolExecutor(at_a_time) as pool:
        list(pool.map(lambda trial: _script(trial, prepared, results, root / trial.stem), trials))
    return time.monotonic() - begun


def _script(trial: Path, prepared: Path, results: Sequence[SuiteResult], root: Path) -> None:
    where = Where(root, root)
    (root / "hub").mkdir(parents=True)  # lm-eval starts there
    shutil.copytree(BASE_FOLDER, where.model("base"))
    where.template.write_text((ROOT / "sft_core" / "templates" / "chatml.jinja").read_text(encoding="utf-8"))
    call([sys.executable, "-m", "bench.sweep_script", *map(str, (where.model("base"), prepared, trial,
                                                                where.model("tuned")))], where, 1)
    for result in results:
        chosen = suite(result.suite)
        theirs(where, chosen, result, Plan(0, chosen.max_new_tokens or LM_TOKENS, (), 0, 0), 1)
