"""`sft promote` and `sft rollback`: which model is the champion."""

from __future__ import annotations

from flows import console
from flows.place import look, workspace
from infra.naming import check_alias
from infra.settings import person
from sft_core.errors import ConfigError
from sft_core.names import check_name
from tasks.promotion import CHAMPION, PREVIOUS, Asked, promote, roll_back
from tasks.runs import find


def run_promotion(reference: str, name: str | None, alias: str, by: str | None, asked: Asked) -> None:
    """`sft promote`: register a run's model and point the alias at it.

    Raises:
        GateFailed: the gate did not pass, and this is no override.
        ConfigError: a name or alias is none, or an override does not say why and by whom.
    """
    if name is not None:
        check_name("--name", name)
    check_alias(alias)
    if alias == PREVIOUS:
        raise ConfigError("--alias previous is moved by promotions of the champion alone; `sft rollback` goes back "
                          "to it")
    asked.check(named=by is not None)
    tracker = look()
    run = find(reference, workspace(), tracker)
    name = name or run.config().config.tracking.registered_model or "sft"
    step, moved = promote(run, name, alias, asked._replace(by=by or person()), tracker)
    which = f"version {step.version} of {name}, alias {alias}"
    if not moved:
        console.lines(f"{run.name} is {which}, already: {step.told()}")
        return
    console.lines(f"{run.name}: registered as {which}")
    if alias == CHAMPION and step.before:
        console.lines(f"before: version {step.before}, now {name}@{PREVIOUS}; `sft rollback {name}` goes back to it")
    now = tracker.aliases(name).get(alias)
    if now != step.version:
        console.lines(f"somebody else has moved {name}@{alias} meanwhile: it is version {now} now")


def run_rollback(name: str, by: str | None, why: str) -> None:
    """`sft rollback`: the previous champion is the champion again."""
    check_name("NAME", name)
    asked = Asked(by or person(), why)
    asked.check(named=True)
    step = roll_back(name, asked, look())
    console.lines(f"{name}: version {step.version} is the champion again"
                  + (f", version {step.before} is not any more" if step.before else ""),
                  f"there is no previous champion now; `sft models {name}` lists all versions")
