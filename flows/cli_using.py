"""The commands that use a model: `sft chat`, `sft serve`, `sft export` and `sft push`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli_begin import after, out_folder
from flows.cli_evaluation import Device, Mirror, Precision, Trust
from sft_core.config.data import ModelSection, TemplateName
from sft_core.errors import ConfigError

MODEL = "A run, NAME@ALIAS, NAME/VERSION, models:/NAME, a folder, a hub id or `tiny`"
Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)]
FormOption = Annotated[Literal["merged", "adapter"], typer.Option("--form", help=(
    "The whole model, or of a run of LoRA its adapter alone"))]
Dtype = Annotated[Literal["auto", "float32", "bfloat16", "float16"], typer.Option(
    help="Of the weights; auto: as they are stored")]
Licence = Annotated[str | None, typer.Option("--license", metavar="ID", help=(
    "Licence that you publish it under, as the hub names it: apache-2.0, cc-by-nc-4.0, …"))]


def _shard(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*(MB|GB)", text):
        raise ConfigError(f"--shard-size {text!r} is no size of a file; give a whole number of MB or GB, e.g. 5GB")
    return text


Shard = Annotated[str, typer.Option("--shard-size", callback=_shard, help="Most of one file of weights")]


def export(  # noqa: PLR0913  (the options of a command)
    model: Model,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", callback=out_folder, help="New or empty folder")],
    form: FormOption = "merged",
    dtype: Dtype = "auto",
    shard: Shard = "5GB",
    licence: Licence = None,
    trust_remote_code: Trust = False,
    mirror: Mirror = None,
) -> None:
    """Write a model as a folder that transformers, vLLM and peft load without this platform, with its model card.

    It is read back and compared with the stored model before the folder appears.
    """
    from flows.using import run_export
    from tasks.export import Shape

    run_export(ModelSection(path=model, trust_remote_code=trust_remote_code), to, Shape(form, dtype, shard, licence),
               mirror)


def push(  # noqa: PLR0913  (the options of a command)
    model: Model,
    name: Annotated[str, typer.Argument(metavar="HUB_ID", help="NAME or ORGANISATION/NAME")],
    public: Annotated[bool, typer.Option("--public", help="For everybody to see; else a new one is private")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show files, sizes and card, and send nothing")] = False,
    form: FormOption = "merged",
    dtype: Dtype = "auto",
    shard: Shard = "5GB",
    licence: Licence = None,
    trust_remote_code: Trust = False,
    mirror: Mirror = None,
) -> None:
    """Send a model with its card to the Hugging Face hub, or to the server at HF_ENDPOINT; private where it is new.

    The token is that of `hf auth login`, or HF_TOKEN. One whose gate did not pass goes too; its card begins with it.
    """
    from flows.using import run_push
    from tasks.export import Sending, Shape

    run_push(ModelSection(path=model, trust_remote_code=trust_remote_code), Sending(name, not public, dry_run),
             Shape(form, dtype, shard, licence), mirror)


def serve(  # noqa: PLR0913  (the options of a command)
    model: Model,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where it listens")] = 8000,
    host: Annotated[str, typer.Option(help="Address of this machine; 0.0.0.0: all of them, for everybody who reaches "
                                           "them")] = "127.0.0.1",
    engine: Annotated[Literal["auto", "transformers", "vllm"], typer.Option(
        help="Whose server; auto: vLLM where there are CUDA and the package, else transformers' own")] = "auto",
    anyway: Annotated[bool, typer.Option("--anyway", help="Also where the certificate does not pass")] = False,
    template: Annotated[TemplateName, typer.Option(help="Template it was trained with; a run knows its own")] = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    trust_remote_code: Trust = False,
    mirror: Mirror = None,
) -> None:
    """Serve a model by OpenAI's interface until Ctrl-C, if it passes the parity certificate: training, evaluation and
    this server see the same tokens and stops.

    Exit code 1 where it does not pass.
    """
    from flows.serve import How, run_serve
    from infra.serving import Address

    asked = ModelSection(path=model, device=device, precision=precision, trust_remote_code=trust_remote_code)
    if not run_serve(asked, Address(port, host), How(template, engine, anyway), mirror):
        raise typer.Exit(1)


def chat(  # noqa: PLR0913  (the options of a command)
    model: Model,
    against: Annotated[str | None, typer.Option(metavar="MODEL", help=(
        "Answer beside it: another model, or `base`: what the run began with"))] = None,
    system: Annotated[str, typer.Option(help="System text")] = "",
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help=(
        "Answer this and end; several are turns of one conversation. A pipe is one prompt."))] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer")] = 512,
    temperature: Annotated[float, typer.Option(min=0.0, max=100.0, help="0: greedy, as models are evaluated")] = 0.0,
    tools: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help=(
        "JSON file: a list of the tools that it may call"))] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --prompt or a pipe: a line of JSON for each answer")]
    = False,
    template: Annotated[TemplateName, typer.Option(help="For a model without a template of its own")] = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    trust_remote_code: Trust = False,
    mirror: Mirror = None,
) -> None:
    """Talk to a model through the template and the stops that it was trained and evaluated with, or to two at once."""
    from flows.chat import Wanted, run_chat
    from tasks.chat import How

    asked = ModelSection(path=model, device=device, precision=precision, trust_remote_code=trust_remote_code)
    how = How(max_tokens, temperature, None if tools is None else _tools(tools))
    run_chat(asked, against, Wanted(template, how, system, tuple(prompt or ()), as_json), mirror)


def _tools(file: Path) -> str:
    """The JSON text of a file of tools."""
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--tools {file} is no JSON ({error}); give a list of function schemas") from error
    if not (isinstance(found, list) and found and all(isinstance(one, dict) for one in found)):
        raise ConfigError(f"--tools {file} is no list of objects; give a list of function schemas, as OpenAI has them")
    return text


def add_using(app: typer.Typer, begin: Callable[[], object]) -> None:
    """Give `app` the commands; `begin` is the first thing that each of them does."""
    for name, command in (("export", export), ("push", push), ("serve", serve), ("chat", chat)):
        app.command(name=name)(after(begin, command))
