"""Where an evaluation is computed: in this process, or on CUDA in processes of their own, one for each GPU.

So training finds all of the GPU's memory, and no CUDA context of an evaluation that is over. On the CPU there is little
to give back, and a process of its own takes four seconds to import.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eval_suites.results import SuiteResult
from eval_suites.statistics.floor import Floor
from eval_suites.verdict.sequential import certain
from infra.settings import gpu_environment
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EvalSection, GateSection
from tasks.apart import Call, apart

if TYPE_CHECKING:
    from eval_suites.asking.run import Out
    from eval_suites.backends.generate import ChatForm


class Asked(NamedTuple):
    """A model and how it is asked."""

    model: ModelSection
    section: EvalSection
    form: ChatForm | None
    mirror: Path | None


@dataclass(frozen=True)
class Against:
    """What a sequential evaluation of a tuned model looks at: its base's results and the gate."""

    base: Mapping[str, SuiteResult]
    gate: GateSection

    def __call__(self, partial: SuiteResult) -> bool:
        """As `Out.stop`: whether the verdict of a suite is certain already."""
        base = self.base.get(partial.suite)
        if base is None or partial.looks is None:
            return False
        kinds = Counter(one.kind for one in self.base.values())
        return certain(base, partial, *partial.looks, self.gate, kinds[base.kind])


def processes_of(model: ModelSection, section: EvalSection) -> int:
    """How many processes evaluate beside this one: one for each GPU; none on the CPU, in vLLM or behind a server."""
    import torch

    from eval_suites.backends.remote import is_endpoint
    from sft_core.model.load import resolve_device

    if is_endpoint(model.path) or section.backend == "vllm" or resolve_device(model).type != "cuda":
        return 0
    return torch.cuda.device_count()


def measured(asked: Asked, suites: Sequence[str], out: Out, processes: int) -> dict[str, SuiteResult]:
    """`asking.run.evaluate` by so many processes; 0: by this one.

    With several each asks its share of the items for the answers in `out.cache`, then one goes through all of them in
    order and finds these answers. Where none are kept, that one asks everything.

    Raises:
        EvalError, ModelError: as `asking.run.evaluate`; a process ended without a word.
    """
    from eval_suites.asking.run import evaluate
    from eval_suites.asking.share import Share, fill

    how: dict[str, Any] = {"section": asked.section, "template": asked.form, "mirror": asked.mirror}
    whole = partial(evaluate, asked.model, suites, **how, out=out)
    if not processes:
        return whole()
    shared: list[dict[str, float]] = []
    if processes > 1 and out.cache is not None:
        shared = apart([Call(partial(fill, asked.model, suites, Share(number, processes, out.cache), **how),
                             gpu_environment(number)) for number in range(processes)])
    found, = apart([Call(whole, gpu_environment(0))])
    return {name: replace(one, seconds=round(one.seconds + max((each[name] for each in shared), default=0.0), 3))
            for name, one in found.items()}


def floors_of(asked: Asked, results: Mapping[str, SuiteResult], processes: int) -> dict[str, Floor]:
    """`asking.again.floors` in a process of its own; 0: in this one.

    Raises:
        EvalError, ModelError: as there; the process ended without a word.
    """
    from eval_suites.asking.again import floors

    make = partial(floors, asked.model, results, asked.section, asked.form, asked.mirror)
    if not processes:
        return make()
    found, = apart([Call(make, gpu_environment(0))])
    return dict(found)
