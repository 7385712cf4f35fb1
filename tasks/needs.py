"""What a run needs besides its configuration: looked at before anything is started, and all of it told at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from eval_suites.asking.needs import lacking
from eval_suites.judge.gold import read_gold
from eval_suites.judge.talk import OPEN_ENDED
from eval_suites.suites.suite import suite
from infra.reach import why_unreachable
from infra.settings import secret
from sft_core.config.evaluate import EvalSection, JudgeSection
from sft_core.config.experiment import ExperimentConfig
from sft_core.errors import ConfigError, EvalError
from tasks.stages import Workspace


def check_needs(found: Sequence[str]) -> None:
    """Raises ConfigError where something is missing: names all of it and says how to get it.

    Args:
        found: what `run_lacks` or `evaluation_lacks` said.
    """
    if found:
        raise ConfigError("\n  ".join(["this cannot run here, and nothing was started:", *found]))


def evaluation_lacks(section: EvalSection, place: Workspace) -> list[str]:
    """What an evaluation lacks, a sentence each."""
    found = lacking(section.suites, section, place.mirror)
    if section.backend == "vllm":
        found += _package("eval.backend: vllm", "vllm", "vllm")
    if section.judge and (section.refusal_scorer == "judge" or any(map(_open_ended, section.suites))):
        found += _judge_lacks(section.judge)
    return found


def run_lacks(config: ExperimentConfig, place: Workspace) -> list[str]:
    """What an experiment lacks, a sentence each."""
    found = evaluation_lacks(config.eval, place)
    found += [one for one in lacking(config.train.probe.suites, config.eval, place.mirror) if one not in found]
    if config.train.engine == "trl":
        found += _package("train.engine: trl", "trl", "trl")
    if config.train.lora.quantize == "nf4":
        found += _package("train.lora.quantize: nf4", "bitsandbytes", "qlora")
    if config.train.optim.name == "adamw_8bit":
        found += _package("train.optim.name: adamw_8bit", "bitsandbytes", "qlora")
    return found


def _package(setting: str, module: str, extra: str) -> list[str]:
    return [] if find_spec(module) else [f"{setting} needs the package {module}: pip install 'sft-platform[{extra}]'"]


def _open_ended(reference: str) -> bool:
    try:
        return suite(reference).scorer == OPEN_ENDED
    except EvalError:  # told by `lacking`
        return False


def _judge_lacks(judge: JudgeSection) -> list[str]:
    """Key, server and gold set."""
    found = _told(lambda: secret(judge.endpoint.key_env))
    if why := why_unreachable(judge.endpoint.url):
        found.append(f"eval.judge.endpoint: no judge answers at {judge.endpoint.url} ({why}); start it, correct the "
                     "url, or leave eval.judge out: open-ended answers are then kept and unscored")
    gold = judge.gold
    return found + (_told(lambda: read_gold(Path(gold))) if gold else [])


def _told(look: Callable[[], object]) -> list[str]:
    try:
        look()
    except (ConfigError, EvalError) as error:
        return [str(error)]
    return []
