"""Examples of a training as the model sees them, with what is trained of them."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from sft_core.config.experiment import ExperimentConfig
from sft_core.stage import write_text
from tasks.pages.shell import rendered
from tasks.show import Wanted, telling_rows, view_rows
from tasks.stages import Done, Workspace


def masks(config: ExperimentConfig, prepared: Done, place: Workspace, wanted: Wanted) -> list[Markup]:
    """Examples, or packed rows, as `<pre>` elements with a head each.

    Raises:
        DataError: there is no such row.
        ConfigError: packed rows are wanted and `data.pack` is off.
    """
    return [Markup(one) for one in view_rows(config, prepared, place, wanted)]


def telling_masks(config: ExperimentConfig, prepared: Done, place: Workspace) -> list[Markup]:
    """The same of the few examples that show most, with why they were chosen."""
    return [Markup(one) for one in telling_rows(config, prepared, place)]


def write_masks_page(file: Path, config: ExperimentConfig, prepared: Done, place: Workspace, wanted: Wanted) -> None:
    """The same as a page; raises what `masks` raises."""
    rows = masks(config, prepared, place, wanted)
    write_text(file, rendered("masks.html.jinja", title=f"{config.name}: training examples", rows=rows))
