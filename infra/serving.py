"""Model servers that others make, started for one model folder: transformers' own, and vLLM's where there is CUDA.

vLLM's is started by its documented options; it has not been run by its authors.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from huggingface_hub.constants import HF_HUB_CACHE

from infra.cuda import why_no_cuda
from infra.servers import Command, Service, healthy, start
from infra.settings import TELEMETRY_OFF
from sft_core.errors import ConfigError, OrchestrationError

Engine = Literal["transformers", "vllm"]
GENERATION = "generation_config.json"
PATIENCE_S = 1800.0
"""For large weights from a cold disk, and for vLLM, which compiles first."""


class Served(NamedTuple):
    """A model to be served. `device` and `dtype` are what it is computed with; `share` of a GPU's memory is vLLM's."""

    folder: Path
    name: str
    device: str
    dtype: str
    trust_remote_code: bool = False
    share: float = 0.9


class Address(NamedTuple):
    """Where a server listens."""

    port: int
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        """By which this machine reaches it."""
        return f"http://{'127.0.0.1' if self.host in ('0.0.0.0', '::') else self.host}:{self.port}"


def choose_engine(asked: Literal["auto", "transformers", "vllm"], device: str) -> Engine:
    """The engine; `auto` is vLLM where there are CUDA and the package, else transformers' own.

    Raises:
        ConfigError: vLLM is asked for and is not here, or there is no CUDA for it.
        OrchestrationError: transformers' server lacks a package.
    """
    there = find_spec("vllm") is not None
    no_cuda = "--device is cpu" if device == "cpu" else why_no_cuda()
    if asked == "vllm" and (no_cuda or not there):
        raise ConfigError(f"--engine vllm: {no_cuda or 'the package is not installed'}; `pip install "
                          "'sft-platform[vllm]'` on a machine with CUDA, or take --engine transformers")
    if asked == "vllm" or (asked == "auto" and there and not no_cuda):
        return "vllm"
    if find_spec("openai") is None:
        raise OrchestrationError("transformers' server needs the package openai; install it with "
                                 "`pip install 'sft-platform[serve]'`, or name a running server")
    return "transformers"


def start_serving(model: Served, at: Address, folder: Path, engine: Engine = "transformers") -> Service:
    """A server that speaks OpenAI's interface below /v1, for one model folder, without network; it answers when this
    returns, and ends with this process.

    Args:
        model: clients call it by its name.
        at: where it listens.
        folder: where it works; its log goes there.

    Raises:
        OrchestrationError: it does not answer in time; the message ends with the end of its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The name of the model there is the argument, which is looked up where it works.
    _linked(model.folder.resolve(), folder / model.name, draws=engine == "transformers")
    arguments, listed = (_vllm, {}) if engine == "vllm" else (_transformers, _listed(model, folder))
    environment = {**TELEMETRY_OFF, "HF_HUB_OFFLINE": "1", **listed}
    return healthy(start(Command("serving", at.url, list(arguments(model, at)), environment, folder,
                                 patience_s=PATIENCE_S)))


def _linked(model: Path, link: Path, *, draws: bool) -> None:
    """The model under another name. With `draws` as a folder of links in which generation_config.json alone is another:
    transformers' server draws only where it says so, and asked with a temperature it would give one answer each time.
    A temperature of 0 is greedy there as ever; one that is not named is 1, as OpenAI's and vLLM's is."""
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    settings = model / GENERATION
    if not draws or not settings.is_file():
        link.symlink_to(model, target_is_directory=True)
        return
    link.mkdir()
    for file in model.iterdir():
        if file.name != GENERATION:
            (link / file.name).symlink_to(file.resolve())
    said = json.loads(settings.read_text(encoding="utf-8"))
    (link / GENERATION).write_text(json.dumps({**said, "do_sample": True}, indent=2), encoding="utf-8")


def _listed(model: Served, folder: Path) -> dict[str, str]:
    """Settings by which transformers' server lists this model at /v1/models. It lists the hub's cache, and fails
    without one; so it gets one that holds this model alone. Code of a model that comes from the hub lies in the true
    one, which then stays, and is made where it is not there."""
    if model.trust_remote_code:
        Path(HF_HUB_CACHE).mkdir(parents=True, exist_ok=True)
        return {}
    cache = folder / "hub"
    shutil.rmtree(cache, ignore_errors=True)
    repository = cache / f"models--{model.name}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("served", encoding="utf-8")
    snapshot = repository / "snapshots" / "served"
    snapshot.parent.mkdir()
    snapshot.symlink_to(model.folder.resolve(), target_is_directory=True)
    return {"HF_HUB_CACHE": str(cache.resolve())}


def _transformers(model: Served, at: Address) -> Iterator[str]:
    yield from ("-m", "transformers.cli.transformers", "serve", model.name, "--host", at.host, "--port", str(at.port),
                "--device", model.device, "--dtype", model.dtype)
    if model.trust_remote_code:
        yield "--trust-remote-code"


def _vllm(model: Served, at: Address) -> Iterator[str]:
    yield from ("-m", "vllm.entrypoints.openai.api_server", "--model", model.name, "--served-model-name", model.name,
                "--host", at.host, "--port", str(at.port), "--dtype", model.dtype,
                "--gpu-memory-utilization", f"{model.share:.2f}")
    if model.trust_remote_code:
        yield "--trust-remote-code"

