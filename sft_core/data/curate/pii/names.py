"""Names of people: the door to Presidio, which asks a language model of spaCy.

Of Presidio's recognisers only the one that reads the model's entities is loaded: its others look for what
`finder.py` finds without a model, and the one for addresses fetches the list of public suffixes from the network. A
model that is not there is fetched by neither: Presidio would run pip.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sft_core.data.curate.pii.span import Span
from sft_core.errors import ConfigError

_LIKE_A_NAME = re.compile(r"[^\W\d_](?:[^\W\d_]|[ .,'’-])*")
"""Models take variables, commands and hashes for people; and a placeholder is no name."""
_LABEL = "en"
"""Presidio's name for the one model that it is given; what language it speaks is the model's own matter."""


def names(text: str, model: str) -> Iterator[Span]:
    """Names of people, as the model sees them.

    Raises:
        ConfigError: Presidio or the model is not installed.
    """
    for found in _engine(model).analyze(text, language=_LABEL, entities=["PERSON"]):
        written = text[found.start : found.end].removesuffix("'s")
        if not _LIKE_A_NAME.fullmatch(written) or written.islower():
            continue
        yield Span("name", found.start, found.start + len(written), " ".join(written.casefold().split()))


@cache
def _engine(model: str) -> Any:
    if find_spec("presidio_analyzer") is None:
        raise ConfigError("data.pii.kinds: name needs Presidio, which is not installed; install it with "
                          "`pip install 'sft-platform[names]'` and a model with `python -m spacy download "
                          "en_core_web_sm`, or leave name out")
    if find_spec(model) is None if model.isidentifier() else not Path(model).is_dir():
        raise ConfigError(f"data.pii.names_model: {model!r} is neither an installed package nor a folder; install it "
                          f"with `python -m spacy download en_core_web_sm`, or give the folder of a model")
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine
    from presidio_analyzer.predefined_recognizers import SpacyRecognizer

    people = NerModelConfiguration(model_to_presidio_entity_mapping={"PERSON": "PERSON", "PER": "PERSON"},
                                   labels_to_ignore=[])
    registry = RecognizerRegistry(recognizers=[SpacyRecognizer(supported_entities=["PERSON"])])
    return AnalyzerEngine(registry, SpacyNlpEngine([{"lang_code": _LABEL, "model_name": model}], people))
