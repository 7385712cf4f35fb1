"""A model as a folder that loads without this platform, whole or as its adapter, with its card; and on the hub."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from infra.hub import check_hub_id, check_login, send
from sft_core.config.data import ModelSection
from sft_core.errors import ConfigError, ModelError
from tasks.card import About, Form, card_of
from tasks.licences import own_id
from tasks.mirror import mirrored
from tasks.named import MADE_BY, Named, Opener, named_model
from tasks.stages import Workspace

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class Shape(NamedTuple):
    """How a model is written."""

    form: Form = "merged"
    dtype: Dtype = "auto"
    shard: str = "5GB"
    licence: str | None = None


def export_told(asked: ModelSection, out: Path, shape: Shape, place: Workspace, tracker: Opener) -> Iterator[str]:
    """Write a model into a folder of its own, and say line by line what was written.

    Args:
        asked: its name as `path`, see `named_model`.

    Raises:
        ConfigError: the folder holds something, or the form does not fit the model.
        ModelError, TrackingError: the model cannot be found or loaded, or is another one when it is read back.
        DiskError: the folder cannot be written.
    """
    out = out.expanduser().absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--to {out} holds something already, and an export overwrites nothing; name a new folder, "
                          "or empty this one")
    named = named_model(asked.path, place, tracker)
    yield from _written(named, asked, out, shape, place, f"./{out.name}")
    yield f"next: vllm serve {out}" if shape.form == "merged" else "next: see Use in its README.md"


class Sending(NamedTuple):
    """Where a model goes on the hub. `private` is of a repository that is new there; `dry`: nothing is sent."""

    name: str
    private: bool = True
    dry: bool = False


def push_told(asked: ModelSection, to: Sending, shape: Shape, place: Workspace, tracker: Opener) -> Iterator[str]:
    """Send a model to the hub, or with `to.dry` show what would go: files, sizes and the card.

    Raises:
        ConfigError: the name is no hub id, or as `export_told`.
        HubError: the hub cannot be reached, or refuses.
        ModelError, TrackingError, DiskError: as `export_told`.
    """
    check_hub_id(to.name)
    if not to.dry:
        check_login()
    named = named_model(asked.path, place, tracker)
    with tempfile.TemporaryDirectory(dir=place.scratch, prefix="pushing-") as scratch:
        folder = Path(scratch) / "model"
        yield from _written(named, asked, folder, shape, place, to.name)
        yield from (f"  {file.stat().st_size:>14,} bytes  {file.name}" for file in sorted(folder.iterdir()))
        if to.dry:
            yield from ("", (folder / "README.md").read_text(encoding="utf-8"), "",
                        f"nothing was sent; without --dry-run all of this goes to {to.name}, "
                        f"{'which only its owners see' if to.private else 'for everybody to see'} if it is new")
            return
        yield f"sent to {send(folder, to.name, private=to.private, message=f'{Path(asked.path).name}, by sft push')}"


def _written(named: Named, asked: ModelSection, out: Path, shape: Shape, place: Workspace, at: str) -> Iterator[str]:
    adapted = _adapter(named, shape, place) if shape.form == "adapter" else None  # refused before torch is loaded
    import torch

    from sft_core.model.export import ADAPTER_CONFIG, CARD, adapter_config, export_adapter, export_model
    from sft_core.model.folder import held_dtype
    from sft_core.model.load import locate

    model = asked.model_copy(update={"path": named.path})
    about = About(named, model, shape.form, at, shape.licence)
    run = named.run
    texts = {MADE_BY: json.dumps({"run": run.name, "mlflow_run_id": run.run_id}) + "\n"} if run else {}
    if adapted:
        adapter, config, place = adapted
        about = about._replace(adapts=own_id(config, place.mirror))
        texts |= {CARD: card_of(about, place.mirror), ADAPTER_CONFIG: adapter_config(adapter, about.adapts or Path(
            config.path).name)}
        made = export_adapter(adapter, config, place.mirror, Path(named.path), out, texts)
    else:
        dtype = None if shape.dtype == "auto" else getattr(torch, shape.dtype)
        held = held_dtype(locate(model, place.mirror))
        about = about._replace(dtype=str(dtype or held).removeprefix("torch."))
        texts[CARD] = card_of(about, place.mirror)
        made = export_model(model, place.mirror, out, dtype, shape.shard, texts)
    yield (f"{asked.path}: {made.bytes / 1e6:,.1f} MB, {shape.form}, {made.dtype}; read back, it is "
           f"{made.divergence:.2g} nats per token from the stored model")
    yield from _gate(named)


def _gate(named: Named) -> Iterator[str]:
    """A warning where its gate did not pass, as its card has it."""
    from sft_core.stage import read_json

    file = named.run.folder / "verdict.json" if named.run else None
    if file and file.exists() and (found := read_json(file, "gate", "reason"))["gate"] != "pass":
        yield f"note: its gate is {found['gate']}, and the card begins with that: {found['reason']}"


def _adapter(named: Named, shape: Shape, place: Workspace) -> tuple[Path, ModelSection, Workspace]:
    """The adapter of a run, its base, and the workspace with the mirror that the run had."""
    if shape.dtype != "auto":
        raise ConfigError("--dtype is of merged weights; an adapter is small and stays as it was trained: leave it out")
    if named.run is None or (config := named.run.config().config).train.method != "lora":
        raise ConfigError(f"{named.reference} is no run of LoRA, so that it has no adapter; leave out --form adapter")
    folder = Path(named.path).resolve().parent / "adapter"
    if not folder.is_dir():
        raise ModelError(f"the adapter of {named.reference} is not here: it lies beside the model where that was "
                         f"made, and there is no {folder}; export it on that machine, give the run's command again, or "
                         "leave out --form adapter")
    return folder, config.model, mirrored(place, config.data.mirror)
