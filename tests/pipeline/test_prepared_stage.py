"""What redoes the preparation of data, and what does not."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sft_core.config.experiment import ExperimentConfig
from sft_core.errors import ModelError
from tasks.prepare import prepared_stage
from tasks.stages import Workspace


def stamp(config: Path, home: Path, **changes: Any) -> str:
    """The fingerprint with other fields of the data section, of its source, or of the replay source."""
    settings = yaml.safe_load(config.read_text())
    settings["train"]["replay"]["sources"][0] |= changes.pop("replay", {})
    settings["data"]["sources"][0] |= changes.pop("source", {})
    settings["data"] |= changes
    return prepared_stage(ExperimentConfig.model_validate(settings), Workspace(home, None)).fingerprint


@pytest.mark.parametrize("change", [
    {"pack": False}, {"source": {"weight": 2.0}}, {"replay": {"weight": 0.5}}, {"source": {"streaming": True}},
])
def test_what_only_training_reads_does_not_redo_it(config: Path, home: Path, change: dict[str, Any]) -> None:
    assert stamp(config, home, **change) == stamp(config, home)


@pytest.mark.parametrize("change", [
    {"max_tokens": 100}, {"validation_share": 0.1}, {"decontaminate": "off"}, {"decontaminate": "report"},
    {"source": {"limit": 119}},
    {"replay": {"limit": 59}}, {"source": {"name": "other"}}, {"source": {"roles": {"BOT": "assistant"}}},
])
def test_what_it_depends_on_redoes_it(config: Path, home: Path, change: dict[str, Any]) -> None:
    assert stamp(config, home, **change) != stamp(config, home)


def test_more_tokens_than_the_base_has_positions_are_refused_before_anything_runs(config: Path, home: Path) -> None:
    assert stamp(config, home, max_tokens=256)
    with pytest.raises(ModelError, match=r"data.max_tokens is 257, but tiny knows 256 positions"):
        stamp(config, home, max_tokens=257)
