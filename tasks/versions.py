"""What a worker of a sweep computes with, against what the sweep began with: code, libraries, base model and data."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from sft_core.config.experiment import ExperimentConfig, SearchSection
from sft_core.errors import ConfigError
from sft_core.stage import fingerprint
from tasks import stages
from tasks.prepare import replay_sources

LIBRARIES = ("torch", "transformers", "peft", "optuna", "lm_eval")
STAGES = ("prepare", "train", "evaluate")
ABSENT = "none"


def found_here(config: ExperimentConfig, place: stages.Workspace) -> dict[str, str]:
    """Name → version or digest of what the trials of a configuration come out of on this machine.

    Libraries count by their release: whether torch was built for CUDA is a matter of the machine.

    Raises:
        DataError, ModelError: a source or the base cannot be found.
    """
    from sft_core.data.sources import source_digest
    from sft_core.model.load import model_identity

    sources = [*config.data.sources, *replay_sources(config)]
    data = [source_digest(source, scratch=place.scratch, mirror=place.mirror) for source in sources]
    return {**{name: _release(name) for name in LIBRARIES},
            **{f"the code of {what}": stages.version(what) for what in STAGES},
            "the base model": model_identity(config.model, place.mirror)["digest"][:16],
            "the training data": fingerprint(data)}


def _release(library: str) -> str:
    try:
        return version(library).partition("+")[0]
    except PackageNotFoundError:
        return ABSENT


def differing(sweep: Mapping[str, str], here: Mapping[str, str], search: SearchSection) -> str:
    """Each thing that is another one here than in the sweep, in words for people; empty where none is.

    Args:
        sweep: what the sweep began with; empty where nobody has said.
        here: what this machine has.
        search: says whether that is refused.

    Raises:
        ConfigError: something differs, and `search.other_versions` is `refuse`.
    """
    told = ", ".join(f"{name} {here.get(name, ABSENT)} (the sweep began with {began})"
                     for name, began in sweep.items() if here.get(name, ABSENT) != began)
    if search.other_versions == "refuse" and told:
        raise ConfigError(f"this machine has other versions than the sweep {search.study}: {told}; its trials "
                          "would not be comparable with those there are; install what the sweep began with, begin one "
                          "of another name (search.study), or set search.other_versions: record and give `sft sweep` "
                          "again, which notes the differences with every such trial")
    return told
