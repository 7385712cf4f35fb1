"""What a machine computes with: against what a sweep began with, and against what stored results were measured with."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft_core.config.data import ModelSection
from sft_core.config.experiment import ExperimentConfig, SearchSection
from sft_core.errors import ConfigError
from sft_core.stage import fingerprint
from sft_core.versions import ROOT
from tasks import stages
from tasks.inputs import ABSENT, installed, replay_sources

LIBRARIES = ("torch", "transformers", "peft", "optuna", "lm_eval")
STAGES = ("prepare", "train", "evaluate")
ASKING = ("torch", "transformers", "tokenizers", "peft", "lm_eval", "vllm")
"""What scores may hang on beside the model: torch with the build of its kernels."""


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


def environment(model: ModelSection) -> dict[str, str]:
    """Name → version of what a model is asked with on this machine: libraries, the code that asks, and the hardware,
    where that is not a server's."""
    import torch

    from eval_suites.backends.remote import is_endpoint
    from sft_core.model.load import resolve_device

    found = {name: installed(name) for name in ASKING} | {"python": platform.python_version(),
                                                          "the code that asks": stages.version("evaluate")}
    if is_endpoint(model.path):
        return found
    if resolve_device(model).type != "cuda":
        return found | {"hardware": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"}
    gpus = sorted({torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())})
    return found | {"hardware": ", ".join(gpus), "cuda": str(torch.version.cuda)}


def changes(stored: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What is another one now, e.g. `torch 2.12.0 → 2.13.0`; nothing where it is not known what there was."""
    both = {name: (stored.get(name, ABSENT), now.get(name, ABSENT)) for name in sorted(stored.keys() | now.keys())}
    return [f"{name} {was} → {new}" for name, (was, new) in both.items() if stored and was != new]


def made_with() -> dict[str, Any]:
    """What computes here: the commit of the checkout and whether its files are those of the commit, both None where the
    code lies in no checkout of its own; the code of every stage; Python and libraries."""
    commit = head()
    return {"commit": commit, "clean": _clean() if commit else None,
            "code": {one: stages.version(one) for one in stages.CODE},
            "libraries": {"python": platform.python_version(), **{name: _release(name) for name in LIBRARIES}}}


def head() -> str | None:
    """The commit of the checkout; None where the code lies in no checkout of its own."""
    try:
        where, found = _git("rev-parse", "--show-toplevel", "HEAD").splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    return found if Path(where).resolve() == ROOT.resolve() else None  # else that of what this is installed in


def _clean() -> bool | None:
    """Whether the files of the checkout are those of its commit; None where git does not say."""
    try:
        return not _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*asked: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *asked], capture_output=True, text=True, check=True).stdout.strip()


def _release(library: str) -> str:
    return installed(library).partition("+")[0]


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
