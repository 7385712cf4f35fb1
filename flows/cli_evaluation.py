"""The commands `sft eval`, `sft compare`, `sft suites` and `sft parity`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows.cli_begin import after, out_file, out_folder
from infra.cuda import check_device
from sft_core.config.data import ModelSection, TemplateName
from sft_core.config.evaluate import MIN_SCORED, EvalSection, GateSection
from sft_core.config.file import checked
from sft_core.errors import ConfigError
from sft_core.masking import has_secret

Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(
    callback=check_device, help="Where weights loaded here are computed with; auto: CUDA where there is one")]
Precision = Annotated[Literal["auto", "float32", "bfloat16"], typer.Option(
    help="Of weights and computing, part of the protocol; auto: bfloat16 on CUDA, float32 on the CPU")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Allow code that comes with the model")]
Limits = Annotated[list[str] | None, typer.Option("--limit", metavar="N or SUITE=N", help=(
    "Items per task, or items of one suite in all, spread over its tasks. Repeatable."))]
Mirror = Annotated[Path | None, typer.Option(help="Folder that holds hub ids as org/name, asked before SFT_MIRROR")]


def evaluate(  # noqa: PLR0913  (the options of a command)
    model: Annotated[str, typer.Argument(help="Folder, hub id, `tiny`, a run, models:/NAME@ALIAS, or "
                                          "http://HOST/v1#NAME")],
    suite: Annotated[list[str], typer.Option("--suite", help="Name (see `sft suites`), or the path of your own YAML. "
                                                             "Repeatable.")],
    against: Annotated[str | None, typer.Option(help="Base to compare with, paired, item by item")] = None,
    limit: Limits = None,
    template: Annotated[TemplateName, typer.Option(help="Chat template: the model's own, or a built-in one")] = "auto",
    data_path: Annotated[Path | None, typer.Option(help="Folder with published benchmarks")] = None,
    include_path: Annotated[Path | None, typer.Option(help="Folder with lm-eval tasks of your own")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Cap on the length of answers")] = None,
    looks: Annotated[int, typer.Option(min=1, help="Stop a suite early, at one of so many looks")] = 1,
    min_scored: Annotated[float, typer.Option(min=0.0, max=1.0, help="Least share of a suite's items with a score")]
    = MIN_SCORED,
    backend: Annotated[Literal["transformers", "vllm"], typer.Option(help="Who computes")] = "transformers",
    device: Device = "auto",
    precision: Precision = "auto",
    trust_remote_code: Trust = False,
    mirror: Mirror = None,
    out: Annotated[Path | None, typer.Option(callback=out_folder, help=(
        "Write per-item results into this folder; those of --against into its folder base/"))] = None,
    html: Annotated[Path | None, typer.Option(callback=out_file, help="Write the comparison as a page")] = None,
) -> None:
    """Evaluate any model on suites, optionally against another one."""
    from flows.evaluation import Shown, run_evaluation

    if looks > 1 and against is None:
        raise ConfigError("--looks stops a suite when its comparison is certain; say with --against what to compare "
                          "with")
    section = checked(EvalSection, suites=suite, **_limits(limit), looks=looks, data_path=_text(data_path),
                      include_path=_text(include_path), max_new_tokens=max_new_tokens, backend=backend,
                      min_scored=min_scored)
    asked = ModelSection(path=model, device=device, precision=precision, trust_remote_code=trust_remote_code)
    run_evaluation(asked, section, template, against, Shown(html=html, out=out), mirror)


def _limits(given: list[str] | None) -> dict[str, Any]:
    """`eval.limit` and `eval.limits` of the options."""
    made: dict[str, Any] = {"limits": {}}
    for one in given or ():
        suite, _, number = one.rpartition("=")
        if not number.isdigit() or int(number) < 1:
            raise ConfigError(f"--limit {one!r} is not N (items per task) or SUITE=N (items of that suite in all), "
                              "e.g. --limit 20 or --limit mmlu=200")
        if suite:
            made["limits"][suite] = int(number)
        else:
            made["limit"] = int(number)
    return made


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def compare(  # noqa: PLR0913  (the options of a command)
    first: Annotated[str, typer.Argument(metavar="A", help="Run, MLflow run id or its start, models:/NAME@ALIAS; with "
                                                           "--suite also a folder, a hub id or `tiny`")],
    second: Annotated[str, typer.Argument(metavar="B", help="Likewise; what is judged against A")],
    suite: Annotated[list[str] | None, typer.Option("--suite", help="Evaluate both on this now. Repeatable.")] = None,
    flips: Annotated[int, typer.Option(min=0, help="Show this many items that changed, per suite")] = 3,
    html: Annotated[Path | None, typer.Option(callback=out_file, help="Write report and changed items as a page")]
    = None,
    max_tax: Annotated[float | None, typer.Option(min=0.0, help="Margin of the capability suites, in points; default: "
                                                  "that of both runs, else 1")] = None,
    max_false_refusals: Annotated[float | None, typer.Option(min=0.0, max=100.0, help="Points by which they may rise; "
                                                             "default: likewise, else 10")] = None,
    must_improve: Annotated[list[str] | None, typer.Option(help="Suite that must be better. Repeatable.")] = None,
    alpha: Annotated[float | None, typer.Option(min=0.001, max=0.499, help="Error probability; default: likewise, "
                                                "else 0.05")] = None,
    limit: Limits = None,
    data_path: Annotated[Path | None, typer.Option(help="With --suite: folder with published benchmarks")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    trust_remote_code: Trust = False,
    mirror: Mirror = None,
) -> None:
    """Compare two runs or models: paired differences, the gate, and the items that flipped, side by side."""
    from flows.evaluation import Shown, run_comparison

    asked = ModelSection(path=first, device=device, precision=precision, trust_remote_code=trust_remote_code)
    if suite is None and (limit or data_path or mirror or asked != ModelSection(path=first)):
        raise ConfigError("--limit, --data-path, --mirror, --device, --precision and --trust-remote-code are for an "
                          "evaluation; say with --suite which one, or leave them out to compare recorded results")
    options = {"max_tax": max_tax, "max_false_refusals": max_false_refusals, "alpha": alpha,
               "must_improve": must_improve and tuple(must_improve)}
    gate = GateSection.model_validate({name: value for name, value in options.items() if value is not None})
    section = checked(EvalSection, suites=suite, **_limits(limit), data_path=_text(data_path)) if suite else None
    run_comparison(asked, second, gate, Shown(flips, html), section, mirror)


def suites(
    data_path: Annotated[Path | None, typer.Option(help="Folder with published benchmarks")] = None,
    mirror: Mirror = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """List the evaluation suites: items, protocol, minimum detectable effect, and whether they can be run here."""
    from flows.evaluation import list_suites

    list_suites(data_path, mirror, as_json=as_json)


def parity(  # noqa: PLR0913  (the options of a command)
    model: Annotated[str, typer.Argument(help="Folder, hub id, a run, or models:/NAME@ALIAS")],
    endpoint: Annotated[str | None, typer.Option(help="Base URL of a running server, e.g. http://127.0.0.1:8000/v1")]
    = None,
    served_name: Annotated[str | None, typer.Option(help="The model's name there; default: its folder")] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Start transformers' own server on loopback")] = False,
    template: Annotated[TemplateName, typer.Option(help="Template it was trained with; a run knows its own")] = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    trust_remote_code: Trust = False,
    mirror: Mirror = None,
    json_file: Annotated[Path | None, typer.Option("--json", callback=out_file, help="Default: .sft/parity.json")]
    = None,
) -> None:
    """Certify that training, lm-eval, evaluation, chat template and server see the same tokens and stops.

    Exit code 1 when they do not.
    """
    if serve and endpoint:
        raise ConfigError("--serve starts a server and --endpoint names a running one; give one of the two")
    if served_name and not endpoint:
        raise ConfigError("--served-name is the model's name at --endpoint; give that too")
    if endpoint and has_secret(endpoint):
        raise ConfigError("--endpoint holds a password, and certificates keep it; give an address without one")
    from flows.parity import run_parity
    from tasks.parity import Serving

    asked = ModelSection(path=model, device=device, precision=precision, trust_remote_code=trust_remote_code)
    if not run_parity(asked, template, Serving(serve, endpoint, served_name), json_file, mirror):
        raise typer.Exit(1)


def add_evaluation(app: typer.Typer, begin: Callable[[], object]) -> None:
    """Give `app` the commands; `begin` is the first thing that each of them does."""
    for name, command in (("eval", evaluate), ("compare", compare), ("suites", suites), ("parity", parity)):
        app.command(name=name)(after(begin, command))
