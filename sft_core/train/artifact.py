"""The model folder that is evaluated and served: weights, tokenizer with its chat template, generation config, card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sft_core.errors import ModelError, TrainingError, disk_advice
from sft_core.train.checkpoint import UNWRITABLE
from sft_core.train.inputs import ServedTemplate


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raises TrainingError, with what to do, where the block cannot write into the folder."""
    try:
        yield
    except UNWRITABLE as error:
        raise TrainingError(f"cannot write the folder {folder}: {error}; {disk_advice(error)} and start the run again: "
                            "it continues from its last checkpoint") from error


def write_model(model: Any, tokenizer: Any, template: ServedTemplate, draft: Path) -> None:
    """Write weights, in the dtype that they have, tokenizer and generation config.

    Generation stops at the template's stop tokens and at the tokenizer's end of text; padding has an id.

    Raises:
        ModelError: the stop text is not one token of the tokenizer.
        TrainingError: the draft cannot be written.
    """
    stops = tokenizer.convert_tokens_to_ids(list(template.stops))
    for text, stop in zip(template.stops, stops, strict=True):
        if stop is None or stop == tokenizer.unk_token_id:
            raise ModelError(f"the stop text {text!r} of template {template.name} is not a token of the tokenizer, so "
                             "generation could not stop on it; choose another template")
    generation = model.generation_config
    ends = [*stops, tokenizer.eos_token_id]
    generation.eos_token_id = list(dict.fromkeys(e for e in ends if e is not None))
    generation.pad_token_id = tokenizer.pad_token_id
    if not generation.do_sample:  # a base may carry sampling values that it never used; saving refuses them
        generation.temperature = generation.top_p = generation.top_k = generation.min_p = None
    with writing(draft):
        model.save_pretrained(draft, safe_serialization=True)
        tokenizer.save_pretrained(draft)


def card_text(name: str, facts: Mapping[str, object], settings: Mapping[str, object]) -> str:
    """The README of a model folder: what it was made of, by which settings, with which result."""
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    told = json.dumps(settings, indent=2, ensure_ascii=False, sort_keys=True)
    return (f"# {name}\n\nFine-tuned by the SFT experiment platform. Objective, minimised: "
            "L = SFT + λ · LM(replay) + β · KL(tuned ‖ base), each a mean over tokens.\n\n"
            f"| | |\n|---|---|\n{rows}\n\n## Training settings\n\n```json\n{told}\n```\n")


def served_tokenizer(tokenizer: Any, template: ServedTemplate) -> Any:
    """The tokenizer, in place, as the folder has it: the template's chat template, and a padding token."""
    tokenizer.chat_template = template.jinja
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or template.stops[0]
    return tokenizer
