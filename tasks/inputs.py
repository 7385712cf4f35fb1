"""What a run reads: sources, suites, the base, and whether any of it has changed, told without torch and Prefect."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from eval_suites.lm_door.data import outside
from eval_suites.scorers.custom import scorer_version
from eval_suites.suites.suite import Suite, named_suites
from infra.cuda import why_no_cuda
from infra.settings import listed_gpus
from sft_core.config.data import SourceSection
from sft_core.config.evaluate import EvalSection
from sft_core.config.experiment import ExperimentConfig
from sft_core.errors import SftError
from sft_core.model.where import files_of, local_folder
from sft_core.stage import fingerprint, known
from sft_core.versions import ROOT, digest
from tasks.stages import Workspace

PACKAGES = ("flows", "tasks", "sft_core", "eval_suites", "infra")
ABSENT = "none"
"""In place of the version of a library that is not installed."""
LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "datasets", "lm_eval", "scipy", "matplotlib", "mlflow")


def replay_sources(config: ExperimentConfig) -> tuple[SourceSection, ...]:
    """The replay sources when λ or β asks for them, otherwise none: an unused source does not change the data."""
    return config.train.replay.sources if config.train.wants_replay else ()


def sources_of(config: ExperimentConfig) -> list[tuple[SourceSection, str]]:
    """Every source that is read, and what for: `train` or `replay`."""
    return [*((one, "train") for one in config.data.sources), *((one, "replay") for one in replay_sources(config))]


def text_of(path: str | None) -> str | None:
    """What a template's file says; an unreadable one is told of when it is used."""
    return Path(path).read_text(encoding="utf-8", errors="replace") if path and Path(path).is_file() else None


def tokenizer_of(config: ExperimentConfig, place: Workspace) -> dict[str, str]:
    """Digests of the base's files other than weights.

    Raises:
        ModelError: it is missing or incomplete.
    """
    from sft_core.model.load import model_identity

    files: dict[str, str] = model_identity(config.model, place.mirror)["files"]
    return {name: found for name, found in files.items() if not name.endswith(".safetensors")}


def suite_stamp(chosen: Suite, section: EvalSection, mirror: Path | None) -> tuple[object, ...]:
    """Moves with all that a suite asks, and with its own scoring function."""
    scored = scorer_version(chosen.scorer, chosen.folder) if chosen.scorer else None
    return chosen.asked(), outside(chosen, section, mirror), scored


def signature(config: ExperimentConfig, place: Workspace) -> str | None:
    """Equal as long as a run of this configuration would find all that it made before: 16 hex digits over the
    configuration, all code, libraries, the machine and what the run reads. Files count by place, size and times of
    change, and are not read, so that a base of 100 GB takes no time; what was only touched looks changed.

    Returns: None where files cannot tell: something is on the hub, or somebody else is asked.
    """
    alone = config.eval.judge is None and config.eval.refusal_scorer == "rules"
    try:
        files = _files(config, place) if alone else None
        if files is None:
            return None
        stamps = [known(file) for file in files]
        suites = [suite_stamp(one, config.eval, place.mirror)
                  for names in (config.eval.suites, config.train.probe.suites) for one in named_suites(names).values()]
    except (SftError, OSError):  # told by whoever looks for what a run lacks
        return None
    code = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*")
                  if file.is_file() and "__pycache__" not in file.parts)
    return fingerprint(config, str(place.root.resolve()), str(place.mirror), digest(code), suites,
                       [installed(name) for name in LIBRARIES], platform.node(), why_no_cuda(), listed_gpus(),
                       stamps)


def _files(config: ExperimentConfig, place: Workspace) -> list[Path] | None:
    """Base, sources and template; None where one of them is not a file of this machine."""
    from sft_core.data.sources import Hub, resolve

    base = local_folder(config.model, place.mirror)
    if base is None:
        return None
    found = [*files_of(base), *([Path(config.template.path)] if config.template.path else [])]
    for source, _ in sources_of(config):
        if source.path.startswith("tiny:"):  # written by code
            continue
        files = resolve(source, scratch=place.scratch, mirror=place.mirror)
        if not isinstance(files, Hub):
            found += files
        elif files.local:
            found += sorted(file for file in Path(files.place).rglob("*") if file.is_file())
        else:
            return None
    return found


def installed(library: str) -> str:
    """Its version on this machine."""
    try:
        return version(library)
    except PackageNotFoundError:
        return ABSENT
