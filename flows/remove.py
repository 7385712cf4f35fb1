"""`sft rm`: runs taken away."""

from __future__ import annotations

from collections.abc import Sequence

from flows import console
from flows.clean import shown_size
from flows.place import look, workspace
from tasks.removal import Going, going, named, take_away, total


def run_rm(references: Sequence[str], *, yes: bool, as_json: bool) -> bool:
    """Show what would become of these runs, or remove them; says whether all that was asked is done.

    Raises:
        TrackingError: one of them is no run, or MLflow refuses.
    """
    place, tracker = workspace(), look()
    found = going(named(references, place), place, tracker)
    stays = {one.run.name: one.refused or (take_away(one, place, tracker) if yes else "") for one in found}
    gone = [one.run.name for one in found if yes and not stays[one.run.name]]
    if as_json:
        console.as_json([{"run": one.run.name, "folder": str(one.run.folder), "mlflow_run_id": one.run.run_id,
                          "sweep": one.sweep, "bytes": one.bytes, "stays": stays[one.run.name],
                          "models": [str(model.paths[0]) for model in one.models], "shared_with": one.shared,
                          "versions": [f"{version.name}/{version.version}" for version in one.versions],
                          "gone": one.run.name in gone} for one in found])
    else:
        _print(found, stays)
        goes = [one for one in found if not stays[one.run.name]]
        what = f"{len(goes)} run{'s' * (len(goes) != 1)}, {shown_size(total(goes))}"
        deleted = "; MLflow has them among its deleted runs until `mlflow gc`" * bool(goes)
        console.lines(f"removed {what}{deleted}" if yes else f"would remove {what}; nothing was removed: add --yes")
    return not any(stays.values())


def _print(found: Sequence[Going], stays: dict[str, str]) -> None:
    console.table("Runs that are asked to go", [
        {"run": one.run.name, "trial of": one.sweep, "size": shown_size(one.bytes),
         "model": "stays" if stays[one.run.name] else f"stays: of {', '.join(one.shared)}, too" if one.shared else
                  "goes" if one.models else "not here",
         "registered": ", ".join(f"{version.name}/{version.version}" for version in one.versions),
         "why it stays": stays[one.run.name]} for one in found])
