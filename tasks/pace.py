"""How fast earlier runs of a model went on this machine, kept in done-marks, and how long a new one will take."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eval_suites.results import Expected, SuiteResult
from eval_suites.statistics.floor import ROUNDS
from infra.settings import gpu_environment
from sft_core.config.data import ModelSection
from sft_core.config.experiment import ExperimentConfig
from sft_core.errors import DamagedFile
from sft_core.stage import DONE, fingerprint, read_json
from tasks.apart import Call, apart
from tasks.stages import Workspace

if TYPE_CHECKING:
    from sft_core.train.outlook import Outlook

SHARE_OF_PRODUCT = {"cpu": (0.3, 1.5), "cuda": (0.1, 1.0)}
"""Of the speed of one large matrix product, what training and evaluation come to; small ones fit into caches. Seen on
two cores: 0.6 (135 M parameters) to 1.0 (1 M). Whoever else computes on the machine comes on top, by any factor."""
SPREAD = 1.15
"""Runs of the same kind on the same machine differ by about this factor."""
GPUS = Path("/proc/driver/nvidia/gpus")
PRODUCT, PRODUCTS = 1024, 10
"""Rows of the matrices, and how often they are multiplied; the fastest counts."""


class Whereabouts(NamedTuple):
    """The base by its content, and where and how it is computed."""

    base: str
    device: str
    precision: str


class Span(NamedTuple):
    """Seconds, at least and at most, and how they are known."""

    low: float
    high: float
    how: str

    def __add__(self, other: object) -> Span:
        assert isinstance(other, Span)
        both = "; ".join(dict.fromkeys(part for how in (self.how, other.how) for part in how.split("; ") if part))
        return Span(self.low + other.low, self.high + other.high, both)


NOTHING = Span(0.0, 0.0, "")


def whereabouts(config: ExperimentConfig, place: Workspace) -> Whereabouts:
    """Of an experiment.

    Raises:
        ModelError: the base or the device is not there.
    """
    from sft_core.model.load import compute_dtype, model_identity, resolve_device

    device = resolve_device(config.model)
    return Whereabouts(model_identity(config.model, place.mirror)["digest"], device.type,
                       str(compute_dtype(config.model, device)))


def machine(device: str) -> str:
    """What computes here, in words: equal for machines of one kind.

    GPUs are read from the driver's files: torch would open CUDA in this process, which stays while others train.
    """
    import torch

    if device == "cuda":
        return ", ".join(sorted({name for file in GPUS.glob("*/information") for name in _after("Model", file)})) or (
            "unknown GPU")
    names = _after("model name", Path("/proc/cpuinfo"))
    threads = torch.get_num_threads()
    return f"{names[0] if names else os.uname().machine}, {threads} thread{'s' * (threads > 1)}"


def training_pace(config: ExperimentConfig, where: Whereabouts) -> dict[str, object]:
    """What the speed of a training run hangs on; runs of an equal one went about as fast."""
    train = config.train
    return {"base": where.base[:16], "precision": where.precision, "machine": machine(where.device),
            "method": train.method, "engine": train.engine, "processes": train.all_processes, "compile": train.compile,
            "recompute": train.gradient_checkpointing, "kl": train.kl.beta > 0 and train.kl.reference,
            "max_tokens": config.data.max_tokens, "pack": config.data.pack}


def evaluation_pace(model: ModelSection, result: SuiteResult, place: Workspace) -> dict[str, object] | None:
    """The same of an evaluation, whose tuned model is as fast as its base; None behind a server."""
    of = _evaluation(model, result.suite, place)
    return None if of is None or not result.n else {"of": of, "seconds": result.seconds / result.n}


def training_span(config: ExperimentConfig, outlook: Outlook, place: Workspace) -> Span:
    """How long training and saving will take: from earlier runs, else from a matrix product that is timed now."""
    wanted = training_pace(config, whereabouts(config, place))
    earlier = [result for result in _results(place, "train")
               if result.get("pace") == wanted and "saving_s" in result]
    tokens = outlook.trained.tokens + outlook.replayed.tokens
    if earlier:
        rates = [result["tokens_per_s"] for result in earlier]
        saving = [end for result in earlier for end in _saving(result, sum(outlook.data.validation.tokens))]
        return Span((tokens / max(rates) + min(saving)) / SPREAD, (tokens / min(rates) + max(saving)) * SPREAD,
                    f"measured in {len(earlier)} earlier run{'s' * (len(earlier) > 1)} of this model and method here")
    return _by_product(outlook, outlook.work_of_run, outlook.work_of_run)


def _saving(earlier: Mapping[str, Any], tokens: int) -> tuple[float, float]:
    """Seconds of saving, where it hangs on the model alone, and where on its held-out tokens alone."""
    took: float = earlier["saving_s"]
    return took, took * tokens / max(1, earlier["validation_tokens"])


def evaluation_span(config: ExperimentConfig, asked: Expected, models: int, outlook: Outlook, place: Workspace, *,
                    base: bool = False) -> Span:
    """How long the items of a suite will take, asked of so many models; of one behind a server nothing is known.

    Args:
        base: the base is among them, which is asked for its A/A floor too.
    """
    wanted, items = _evaluation(config.model, asked.suite, place), models * asked.items
    if base:
        items += ROUNDS * min(config.eval.floor_items, asked.items)
    if wanted is None:
        return NOTHING
    paces = [result["pace"]["seconds"] for result in _results(place, "evaluate")
             if (result.get("pace") or {}).get("of") == wanted]
    if paces:  # some of them had their answers kept and took hardly any time
        return Span(items * statistics.median_high(paces) / SPREAD, items * max(paces) * SPREAD,
                    "measured in earlier evaluations here")
    low, high = (outlook.work_of_token * items * tokens for tokens in asked.tokens)
    return _by_product(outlook, low, high)


def _evaluation(model: ModelSection, suite: str, place: Workspace) -> str | None:
    from eval_suites.backends.remote import is_endpoint
    from sft_core.model.load import compute_dtype, load_config, resolve_device

    if is_endpoint(model.path):
        return None
    device, shape = resolve_device(model), load_config(model, place.mirror).get_text_config()
    size = [getattr(shape, name, None) for name in ("model_type", "hidden_size", "num_hidden_layers",
                                                     "intermediate_size")]
    return fingerprint(suite, size, machine(device.type), str(compute_dtype(model, device)))


def _by_product(outlook: Outlook, low: float, high: float) -> Span:
    speed = _product(outlook.place.device, str(outlook.place.dtype))
    slow, fast = SHARE_OF_PRODUCT.get(outlook.place.device, SHARE_OF_PRODUCT["cuda"])
    return Span(low / speed / fast, high / speed / slow,
                f"guessed from {speed / 1e9:,.0f} GFLOP/s in a matrix product, until a first run has measured it")


@cache
def _product(device: str, dtype: str) -> float:
    """Floating-point operations per second of a matrix product here; timed once per process.

    On CUDA by a process of its own: a context would stay in this one, beside those that train.
    """
    timed = partial(_timed, device, dtype)
    return float(apart([Call(timed, gpu_environment(0))])[0] if device == "cuda" else timed())


def _timed(device: str, dtype: str) -> float:
    import torch

    a = torch.ones(PRODUCT, PRODUCT, device=device, dtype=getattr(torch, dtype.removeprefix("torch.")))
    seconds = []
    for _ in range(PRODUCTS):
        began = time.monotonic()
        float((a @ a)[0, 0])  # the number waits for the device
        seconds.append(time.monotonic() - began)
    return 2.0 * PRODUCT**3 / min(seconds)


def _results(place: Workspace, stage: str) -> Iterator[Mapping[str, Any]]:
    for mark in sorted((place.root / "stages" / stage).glob(f"*/{DONE}")):
        with suppress(DamagedFile):  # `once` makes that stage again
            yield read_json(mark, "result")["result"]


def _after(name: str, file: Path) -> list[str]:
    """What stands behind `name` and a colon in the lines of a file of the system; nothing where it is not there."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    return [line.partition(":")[2].strip() for line in lines if line.startswith(name)]
