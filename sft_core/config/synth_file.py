"""Reads the file of one piece of synthesis, as that of an experiment is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from sft_core.config.given import read_given, refuse
from sft_core.config.synth import SynthConfig
from sft_core.config.telling import causes, told


class LoadedSynth(NamedTuple):
    """A valid configuration and the text it came from, overrides included."""

    config: SynthConfig
    text: str


def load_synth(path: Path, overrides: Sequence[str] = ()) -> LoadedSynth:
    """Read and check a configuration.

    Args:
        path: a YAML file.
        overrides: `a.b=value`, as for `sft run`.

    Raises:
        ConfigError: with every problem found.
    """
    given = read_given(path, overrides, SynthConfig)
    try:
        config = SynthConfig.model_validate(given.data)
    except ValidationError as error:
        found = [told(one, given.places, SynthConfig) for one in causes(error, given.data, SynthConfig)]
        refuse(path, [*given.wrong, *found])
        raise
    refuse(path, given.wrong)
    return LoadedSynth(config, given.text)
