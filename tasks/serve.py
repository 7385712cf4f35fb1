"""A model behind a server that others make, with its parity certificate."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from infra.servers import Service, can_listen
from infra.serving import Address, Served, choose_engine, start_serving
from sft_core.config.data import ModelSection
from sft_core.errors import ConfigError
from sft_core.names import file_name
from tasks.named import Opener, named_model
from tasks.parity import Serving, certificate_of
from tasks.stages import Workspace

if TYPE_CHECKING:
    from eval_suites.parity.certificate import Certificate

COPY = 1.3
"""Memory that the certificate's own copy of the weights takes beside vLLM's, as a multiple of their files."""


class Up(NamedTuple):
    """A server that answers. `what` says what it is."""

    service: Service
    url: str
    name: str
    what: str
    certificate: Certificate


@contextmanager
def served(asked: ModelSection, template: str, at: Address, engine: Literal["auto", "transformers", "vllm"],
           place: Workspace, tracker: Opener) -> Iterator[Up]:
    """A model behind a server for as long as the block runs, certified: training, evaluation and this server see the
    same tokens.

    Args:
        asked: its name as `path`, see `named_model`, with device, precision and trust.
        template: the template that it was trained with; a run knows its own.

    Raises:
        ConfigError: nobody may listen there, or the engine cannot be had.
        ModelError, TrackingError: the model cannot be found or loaded.
        OrchestrationError: the server does not come up.
    """
    from sft_core.model.load import compute_dtype, locate, resolve_device

    if not can_listen(at.host, at.port):
        raise ConfigError(f"{at.host}:{at.port} cannot be listened at: another program does, or this machine has no "
                          "such address; give another --port or --host")
    named = named_model(asked.path, place, tracker)
    model = asked.model_copy(update={"path": named.path})
    folder, device = locate(model, place.mirror), resolve_device(model)
    name = file_name(named.run.name if named.run else Path(named.path).name)
    chosen, dtype = choose_engine(engine, device.type), str(compute_dtype(model, device)).removeprefix("torch.")
    share = _share(folder) if chosen == "vllm" else 1.0
    service = start_serving(Served(folder, name, device.type, dtype, asked.trust_remote_code, share), at,
                            place.root / "serving" / str(at.port), chosen)
    try:
        certificate = certificate_of(asked, template, Serving(url=f"{at.url}/v1", name=name), place, tracker())
        gc.collect()  # its copy of the weights
        yield Up(service, f"{at.url}/v1", name, f"{chosen}, {device.type}, {dtype}", certificate)
    finally:
        service.stop()


def _share(folder: Path) -> float:
    """Of a GPU's memory for vLLM, so that the certificate's copy of the weights has room beside it."""
    import torch

    from sft_core.model.where import weight_files

    size = sum(file.stat().st_size for file in weight_files(folder))
    return max(0.3, 0.9 - COPY * size / torch.cuda.mem_get_info()[1])
