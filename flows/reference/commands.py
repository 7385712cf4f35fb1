"""The page of every command with its arguments and options, and of exit codes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer

import sft_core.errors as errors
from flows.cli import app
from flows.panels import ORDER, PANELS
from flows.reference.tables import table

HEAD = """# Commands and exit codes

`sft` is in `.venv/bin` after `make demo`. `sft COMMAND --help` says what this page says. `CONFIG` is a YAML file or the
name of a shipped one (`demo`, `sweep`, `smollm2`, `alpaca`); a run is named by its folder in `.sft/runs` or its MLflow
run id, or the beginning of either (the whole name for `rm`); `models:/NAME@ALIAS` is a registered model.
`make reference` made this page.
"""
CODES = {
    0: "Done. A run whose gate did not pass ends so too, unless `gate.enforce` is on.",
    1: "Failed: what happened and what to do is one sentence on the error stream. Also: a check of `sft doctor` "
       "failed, `sft parity` found a difference, `sft lineage --verify` a change, `sft status` that not all is "
       "well, a night a regression; Ctrl-C and SIGTERM, after saving.",
    2: "Usage or configuration: nothing was started.",
    3: "The gate did not pass: `gate.enforce`, or `sft promote` of a run that has not passed.",
}
EXAMPLES = {
    "run": "sft run flows/configs/demo.yaml --set train.replay.lambda=0",
    "doctor": "sft doctor flows/configs/demo.yaml",
    "synth": "sft synth reject --set reject.samples=16",
    "sweep": "sft sweep flows/configs/sweep.yaml --workers 2",
    "sweep-worker": "sft sweep-worker sft-sweep",
    "deploy": "sft deploy --cron '30 2 * * *' --timezone Europe/Berlin",
    "story": "sft story --seeds 3",
    "eval": "sft eval tiny --suite tiny_mmlu --suite tiny_format --limit 20",
    "compare": "sft compare RUN_A RUN_B --html changed.html",
    "suites": "sft suites",
    "parity": "sft parity RUN --serve",
    "judge": "sft judge RUN_A RUN_B --endpoint http://127.0.0.1:8000/v1 --model NAME",
    "nightly": "sft nightly",
    "nights": "sft nights",
    "promote": "sft promote RUN",
    "rollback": "sft rollback",
    "models": "sft models",
    "lineage": "sft lineage RUN --verify",
    "bisect": "sft bisect RUN_A RUN_B --suite tiny_mmlu",
    "chat": "sft chat RUN --against base --max-tokens 200",
    "export": "sft export RUN --to tuned --shard-size 2GB",
    "push": "sft push RUN NAME/tuned --dry-run",
    "serve": "sft serve RUN --port 8001",
    "plan": "sft plan flows/configs/demo.yaml",
    "open": "sft open",
    "runs": "sft runs --sort tax --where gate=pass",
    "show": "sft show RUN",
    "rm": "sft rm RUN --yes",
    "clean": "sft clean --checkpoints --older-than 30d",
    "join": "sft join",
    "reconcile": "sft reconcile --dry-run",
    "dashboard": "sft dashboard sft-sweep",
    "up": "sft up",
    "down": "sft down",
    "status": "sft status",
    "data check": "sft data check flows/configs/demo.yaml",
    "data show": "sft data show flows/configs/demo.yaml --row 5",
    "data report": "sft data report flows/configs/demo.yaml --out data.html",
    "config schema": "sft config schema",
    "config check": "sft config check flows/configs/demo.yaml",
    "tiny build": "sft tiny build rebuilt-base",
    "human export": "sft human export RUN_A RUN_B --out sheets",
    "human import": "sft human import RUN_A RUN_B sheets/filled.csv",
    "model import": "sft model import FILE.gguf FOLDER",
}
"""Command → a use of it."""


def commands() -> dict[str, Any]:
    """All commands by name, `config check` for one of a group, in the order of the help."""
    found: dict[str, Any] = {}
    every = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, one in ((name, every[name]) for name in ORDER):
        inner = getattr(one, "commands", None)
        found |= {f"{name} {part}": command for part, command in inner.items()} if inner else {name: one}
    return found


def commands_page() -> str:
    """Markdown: exit codes, then a heading for each command."""
    listed = commands()
    overview = "\n".join(f"### {panel}\n\n" + table(("command", "what it does"), [
        (f"[`sft {name}`](#sft-{name.replace(' ', '-')})", (one.help or "").partition("\n\n")[0])
        for name, one in listed.items() if name.partition(" ")[0] in names]) for panel, names in PANELS.items())
    told = "".join(f"\n{line}\n" for name, one in listed.items() for line in _told(name, one))
    return f"{HEAD}\n{_codes()}\n## All commands\n\n{overview}{told}"


def _codes() -> str:
    kinds: dict[int, list[str]] = {}
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.SftError) and kind is not errors.SftError:
            kinds.setdefault(kind.exit_code, []).append(f"`{name}`")
    return "## Exit codes\n\n" + table(("code", "meaning", "errors"), [
        (str(code), said, ", ".join(kinds.get(code, ["–"]))) for code, said in CODES.items()])


def _told(name: str, command: Any) -> Iterator[str]:
    yield f"## `sft {name}`"
    yield " ".join((command.help or "").replace("\n\n", "\n").split())
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
    words = [_metavar(one) if one.required else f"[{_metavar(one).strip('[]')}]" for one in arguments]
    needed = [f"{one.opts[0]} {_metavar(one)}" for one in options if one.required]
    yield f"`{' '.join(['sft', name, *words, *needed, *(['[OPTIONS]'] if len(options) > len(needed) else [])])}`"
    hints = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    if rows := [(*_names(one, hints[one.name]), one.help or "") for one in (*arguments, *options)]:
        yield table(("argument or option", "takes", "default", "meaning"), rows).strip()
    yield f"Example: `{EXAMPLES[name]}`" if name in EXAMPLES else "(no example)"


def _metavar(param: Any) -> str:
    return str(param.metavar or param.name.upper())


def _names(param: Any, hint: Any) -> tuple[str, str, str]:
    if param.param_type_name == "argument":
        shown = f"`{_metavar(param).strip('[]')}`"
    else:
        shown = ", ".join(f"`{one}`" for one in (*param.opts, *param.secondary_opts))
    default = "required" if param.required else _shown(param.default)
    return shown, _takes(param, hint), default


def _shown(default: object) -> str:
    return "" if default is False or default in (None, "", []) else f"`{default}`"


def _takes(param: Any, hint: Any) -> str:
    if getattr(param, "is_flag", False):
        return "nothing"
    kinds = [one for one in _parts(hint) if one is not type(None)]
    words = [f"`{word}`" for one in kinds if get_origin(one) is Literal for word in get_args(one)]
    if words:
        return ", ".join(words)
    named = {int: "whole number", float: "number", Path: "path"}
    said = next((named[one] for one in kinds if one in named), "text")
    return said + (", repeatable" if getattr(param, "multiple", False) else "")


def _parts(hint: Any) -> Iterator[Any]:
    """The plain types within a type, annotations and `| None` taken off."""
    if get_origin(hint) is Literal or not get_args(hint):
        yield hint
        return
    inner = get_args(hint)[:1] if hasattr(hint, "__metadata__") else get_args(hint)
    for part in inner:
        yield from _parts(part)
