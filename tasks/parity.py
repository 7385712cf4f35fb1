"""The parity certificate of a run's model, or of any model folder, alone or against a server."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from infra.contract import Tracker
from infra.servers import free_port
from infra.serving import Address, Served, choose_engine, start_serving
from infra.settings import gpu_environment
from sft_core.config.data import ModelSection, TemplateSection
from sft_core.config.experiment import ExperimentConfig
from sft_core.names import file_name
from sft_core.stage import write_json
from tasks.apart import Call, apart
from tasks.mirror import mirrored
from tasks.named import named_model
from tasks.stages import Done, Workspace

if TYPE_CHECKING:
    from eval_suites.parity.certificate import Certificate, Deployed, Server


class Serving(NamedTuple):
    """Which server takes part. Neither: ids alone, and no weights are loaded."""

    start: bool = False
    """Start transformers' own server on loopback."""
    url: str | None = None
    """A server that runs already."""
    name: str | None = None
    """The model's name there; by default its folder."""

    @property
    def asked(self) -> bool:
        """A server takes part."""
        return self.start or self.url is not None


class _Origin(NamedTuple):
    """What a model was trained with: the base whose tokenizer it was, and the template's section."""

    base: ModelSection
    template: TemplateSection


def certificate(trained: Done, config: ExperimentConfig, place: Workspace) -> Certificate | None:
    """The certificate of a run's tuned model, as `eval.parity` asks for it; None when that is off.

    Raises:
        TemplateError, ModelError: the base's tokenizer or the tuned model cannot be loaded.
        OrchestrationError: the server does not start.
    """
    if config.eval.parity == "off":
        return None
    model = config.model.model_copy(update={"path": str(trained.folder / "model"), "revision": None})
    return _certified(model, _Origin(config.model, config.template), Serving(config.eval.parity == "served"), place)


def certificate_of(asked: ModelSection, template: str, serving: Serving, place: Workspace,
                   tracker: Tracker) -> Certificate:
    """The certificate of whatever a person may name: a folder, a hub id, a run, or models:/NAME@ALIAS.

    A run is compared with its own training; of anything else the folder's own tokenizer stands for it.

    Args:
        asked: its name as `path`, with device, precision and trust.
        template: the template that it was trained with, see `TemplateSection.name`.

    Raises:
        ModelError, TemplateError, TrackingError, EvalError: it cannot be found, loaded or asked.
        OrchestrationError: the server does not start.
    """
    named = named_model(asked.path, place, lambda: tracker)
    model = asked.model_copy(update={"path": named.path})
    origin = _Origin(model, TemplateSection.model_validate({"name": template}))
    if named.run:
        config = named.run.config().config
        origin, place = _Origin(config.model, config.template), mirrored(place, config.data.mirror)
    return _certified(model, origin, serving, place)


def keep(made: Certificate, model: str, serving: Serving, file: Path) -> None:
    """Write a certificate as JSON."""
    write_json(file, {"model": model, "server": serving.url or ("transformers serve" if serving.start else None),
                      **made.to_dict()})


def _certified(model: ModelSection, origin: _Origin, serving: Serving, place: Workspace) -> Certificate:
    """On CUDA a model that is loaded has a process of its own, with which its memory and context go."""
    from sft_core.model.load import resolve_device

    make = partial(_measured, model, origin, serving, place)
    if not (serving.asked and resolve_device(model).type == "cuda"):
        return make()
    found: Certificate = apart([Call(make, gpu_environment(0))])[0]
    return found


def _measured(model: ModelSection, origin: _Origin, serving: Serving, place: Workspace) -> Certificate:
    from eval_suites.parity.certificate import certify
    from sft_core.model.load import load_tokenizer, locate
    from sft_core.templates.choose import choose
    from sft_core.templates.render import Renderer

    tokenizer = load_tokenizer(origin.base, locate(origin.base, place.mirror))
    training = Renderer(choose(origin.template, tokenizer), tokenizer, origin.template)
    deployed = _deployed(model, place, weights=serving.asked)
    with _server(model, serving, place) as server:
        return certify(deployed, training, server)


def _deployed(section: ModelSection, place: Workspace, *, weights: bool) -> Deployed:
    """The model as it will be served; without `weights` only its shape, which takes no memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    from eval_suites.parity.certificate import Deployed, require_stops
    from sft_core.model.load import compute_dtype, load_model, load_tokenizer, locate, resolve_device

    folder = locate(section, place.mirror)
    if weights:
        device = resolve_device(section)
        loaded = load_model(section, mirror=place.mirror, dtype=compute_dtype(section, device))
        model: Any = loaded.model.to(device).eval()
    else:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(
                folder, trust_remote_code=section.trust_remote_code))
    saved = (folder / "generation_config.json").is_file()
    model.generation_config = GenerationConfig.from_pretrained(folder) if saved else model.generation_config
    return Deployed(model, load_tokenizer(section, folder), require_stops(model.generation_config.eos_token_id))


@contextmanager
def _server(section: ModelSection, serving: Serving, place: Workspace) -> Iterator[Server | None]:
    """The server that runs already, or one started for as long as it is needed."""
    from eval_suites.parity.server import ChatServer
    from sft_core.model.load import compute_dtype, locate, resolve_device

    if not serving.asked:
        yield None
        return
    folder = locate(section, place.mirror).resolve()
    if serving.url is not None:
        yield ChatServer(serving.url, serving.name or str(folder))
        return
    device = resolve_device(section)
    with tempfile.TemporaryDirectory(dir=place.scratch, prefix="serving-") as scratch:
        model = Served(folder, file_name(folder.name), str(device),
                       str(compute_dtype(section, device)).removeprefix("torch."), section.trust_remote_code)
        service = start_serving(model, Address(free_port()), Path(scratch), choose_engine("transformers", device.type))
        try:
            yield ChatServer(f"{service.url}/v1", model.name)
        finally:
            service.stop()
