"""The first examples of a training as the model saw them, with what is trained of them."""

from __future__ import annotations

from markupsafe import Markup

from sft_core.config.experiment import ExperimentConfig
from tasks.show import Wanted, view_rows
from tasks.stages import Done, Workspace

SHOWN = 3
"""Examples."""


def masks(config: ExperimentConfig, prepared: Done, place: Workspace) -> list[Markup]:
    """The first examples as `<pre>` elements with a head each."""
    return [Markup(one) for one in view_rows(config, prepared, place, Wanted(0, SHOWN))]
