"""The commands `sft judge` and `sft human`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from flows.cli_begin import after, out_folder
from sft_core.config.file import checked

FirstResults = Annotated[str, typer.Argument(metavar="A", help="Base: a recorded run, or a folder with results")]
SecondResults = Annotated[str, typer.Argument(metavar="B", help="Tuned: likewise")]
SheetSeed = Annotated[int, typer.Option(help="Draws order and sides of the sheet; the same at export and import")]


def judge_answers(  # noqa: PLR0913  (the options of a command)
    a: FirstResults,
    b: SecondResults,
    endpoint: Annotated[str, typer.Option(help="Base URL that ends in /v1")],
    model: Annotated[str, typer.Option(help="Name of the judge there")],
    mode: Annotated[str, typer.Option(help="pairwise (both orders) or single (grades 1 to 10)")] = "pairwise",
    gold: Annotated[Path | None, typer.Option(help="JSONL of judgements by people; default: the project's own")] = None,
    key_env: Annotated[str | None, typer.Option(help="Environment variable that holds the API key")] = None,
    price_in: Annotated[float, typer.Option(min=0.0, help="Price of a million prompt tokens")] = 0.0,
    price_out: Annotated[float, typer.Option(min=0.0, help="Price of a million answer tokens")] = 0.0,
    out: Annotated[Path | None, typer.Option(callback=out_folder, help="Folder for judge.json and per-item results")]
    = None,
) -> None:
    """Judge the open-ended answers of B against A by an LLM: win rate, also adjusted for length, ties, position
    bias. Ends with exit code 1 where too little could be judged."""
    from flows.judging import run_judging
    from sft_core.config.evaluate import JudgeSection

    section = checked(JudgeSection, mode=mode, gold=str(gold) if gold else None, endpoint={
        "url": endpoint, "model": model, "key_env": key_env, "price_in": price_in, "price_out": price_out})
    run_judging(a, b, section, out)


def human_export(
    a: FirstResults,
    b: SecondResults,
    out: Annotated[Path, typer.Option(callback=out_folder, help="Folder for the sheets")] = Path("sheets"),
    seed: SheetSeed = 0,
) -> None:
    """Write blinded sheets of the open-ended answers, CSV and HTML, to be labelled A, B or tie."""
    from flows.judging import run_export

    run_export(a, b, out, seed)


def human_import(
    a: FirstResults,
    b: SecondResults,
    labels: Annotated[list[Path], typer.Argument(help="Filled CSV files, one per person and sheet")],
    seed: SheetSeed = 0,
) -> None:
    """Read people's labels: win rate with interval, and how far raters agree."""
    from flows.judging import run_import

    run_import(a, b, labels, seed)


def add_judging(app: typer.Typer, begin: Callable[[], object]) -> None:
    """Give `app` the commands; `begin` is the first thing that each of them does."""
    human_app = typer.Typer(no_args_is_help=True, help="Open-ended answers judged by people.")
    app.add_typer(human_app, name="human")
    for place, name, command in ((app, "judge", judge_answers), (human_app, "export", human_export),
                                 (human_app, "import", human_import)):
        place.command(name=name)(after(begin, command))
