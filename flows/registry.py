"""`sft models` and `sft lineage`: what is registered, and what it came out of."""

from __future__ import annotations

from flows import console
from flows.place import look, workspace
from sft_core.errors import ConfigError
from tasks.catalog import listed_models, named_run, told_steps
from tasks.facts import chain
from tasks.lineage import CHANGED, Looked, look_again, read_lineage
from tasks.mirror import mirrored


def show_models(name: str | None, *, as_json: bool) -> None:
    """Print the versions of registered models.

    Raises:
        ConfigError: there is no registered model of that name.
    """
    found = listed_models(name, look())
    if name and not found:
        there = sorted({one.model for one in listed_models(None, look())})
        raise ConfigError(f"there is no registered model {name}; there are {', '.join(there) or 'none'}; `sft promote "
                          f"RUN --name {name}` registers a run's model")
    if as_json:
        console.as_json([one.plain() for one in found])
        return
    console.table("Registered models", [one.row() for one in found])
    console.lines(*told_steps(found))
    if not found:
        console.lines("no model is registered yet; `sft promote RUN` registers a run's model")


def show_lineage(reference: str, *, verify: bool, as_json: bool) -> bool:
    """Print what a model came out of, with `verify` every hash looked at again; returns whether one has changed."""
    tracker = look()
    place = workspace()
    run, versions = named_run(reference, place, tracker)
    lineage = read_lineage(run)
    looked: list[Looked] = []
    if verify:
        config = run.config().config
        looked = list(look_again(run, lineage, mirrored(place, config.data.mirror)))
    if as_json:
        console.as_json({"run": run.name, "mlflow_run_id": run.run_id, **lineage,
                         "versions": [one.plain() for one in versions],
                         **({"verified": [one._asdict() for one in looked]} if verify else {})})
        return any(one.state == CHANGED for one in looked)
    console.table(f"{reference}: run {run.name}", chain(lineage))
    console.lines(*(told_steps(versions) or ["never promoted"]))
    if verify:
        console.table("Looked at again", [one._asdict() for one in looked])
    return any(one.state == CHANGED for one in looked)
