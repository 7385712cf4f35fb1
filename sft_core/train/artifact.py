"""The model folder that is evaluated and served: weights, tokenizer with its chat template, generation config, card.

For adapters the merged weights are the artifact, after a check that merging did not change what the model says; the
adapter itself lies beside it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from sft_core.config.train import KlSection, TrainSection
from sft_core.errors import ModelError, TrainingError
from sft_core.model.attention import head_of, hidden_of
from sft_core.model.load import load_model
from sft_core.model.proof import Rows
from sft_core.stage import give_usual_mode
from sft_core.train.checkpoint import UNWRITABLE, sync
from sft_core.train.inputs import ServedTemplate
from sft_core.train.policy import Micro, make_policy
from sft_core.train.snapshot import restore_weights
from sft_core.train.workbench import Workbench

MERGE_TOLERANCE = 1e-3
"""Largest allowed difference of a token's log-probability in nats between adapter and merged weights, in float32."""


def merge_adapter(model: Any, micro: Micro, folder: Path) -> Any:
    """Save the adapter into `folder`, merge it into the base and return the plain model.

    Args:
        model: a PeftModel, trained.
        micro: some rows on which adapter and merged model must agree.

    Raises:
        TrainingError: they differ by more than MERGE_TOLERANCE.
    """
    model.eval()
    before = _token_log_probs(model, micro)
    draft = _draft(folder)
    # False: modules_to_save are stored anyway, and "auto" would ask the hub about the base.
    model.save_pretrained(draft, safe_serialization=True, save_embedding_layers=False)
    _put(draft, folder)
    merged = model.merge_and_unload()
    gap = float((_token_log_probs(merged, micro) - before).abs().max())
    if not gap <= MERGE_TOLERANCE:
        raise TrainingError(f"merging the adapter changed log-probabilities by up to {gap:.2g} nats (allowed "
                            f"{MERGE_TOLERANCE:g}); the adapter in {folder} is good, the merged model was not saved")
    return merged


class Output(NamedTuple):
    """Where a trained model goes."""

    model: Path
    adapter: Path | None
    card: str


def save_trained(bench: Workbench, section: TrainSection, weights: Mapping[str, Tensor], output: Output) -> None:
    """Write the model folder, and the adapter's, with these trained weights; one process does it for all.

    A model that is sharded or held in 4 bits is not saved as it is: the base is loaded anew, in main memory, and given
    the weights.

    Raises:
        TrainingError: merging changes the model, or a folder cannot be written.
    """
    loaded, policy, inputs = bench.loaded, bench.policy, bench.inputs
    if section.lora.quantize != "none" or any(isinstance(p, DTensor) for p in policy.model.parameters()):
        apart = inputs.model.model_copy(update={"device": "cpu", "attention": "auto"})
        loaded = load_model(apart, mirror=inputs.mirror, added=bench.template.added)
        policy = make_policy(loaded, apart, section.model_copy(update={"kl": KlSection()}), inputs.seed,
                             grown=bool(bench.template.added), rows=Rows(inputs.pack, inputs.max_tokens))
    model = policy.model
    trained = {name: p for name, p in model.named_parameters() if name in weights}
    restore_weights(trained, weights)
    if output.adapter is not None:
        sample = bench.micro(bench.course.sft, bench.course.sft.rows[:1])
        model = merge_adapter(model, policy.micro(sample.batch), output.adapter)
    save_model_folder(model.to(loaded.dtype), loaded.tokenizer, bench.template, output.model, output.card)


def save_model_folder(model: Any, tokenizer: Any, template: ServedTemplate, folder: Path, card: str) -> None:
    """Write the folder; it appears whole or not at all. The model is saved in the dtype that it has.

    Generation stops at the template's stop tokens and at the tokenizer's end of text; padding has an id.

    Raises:
        ModelError: the stop text is not one token of the tokenizer.
        TrainingError: the folder cannot be written.
    """
    stop = tokenizer.convert_tokens_to_ids(template.stop)
    if stop is None or stop == tokenizer.unk_token_id:
        raise ModelError(f"the stop text {template.stop!r} of template {template.name} is not a token of the "
                         "tokenizer, so generation could not stop on it; choose another template")
    tokenizer.chat_template = template.jinja
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or template.stop
    generation = model.generation_config
    ends = [stop, *tokenizer.convert_tokens_to_ids(list(template.more_stops)), tokenizer.eos_token_id]
    generation.eos_token_id = list(dict.fromkeys(e for e in ends if e is not None))
    generation.pad_token_id = tokenizer.pad_token_id
    if not generation.do_sample:  # a base may carry sampling values that it never used; saving refuses them
        generation.temperature = generation.top_p = generation.top_k = generation.min_p = None
    draft = _draft(folder)
    try:
        model.save_pretrained(draft, safe_serialization=True)
        tokenizer.save_pretrained(draft)
        (draft / "README.md").write_text(card, encoding="utf-8")
        _put(draft, folder)
    except UNWRITABLE as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise TrainingError(f"cannot write the model folder {folder}: {error}; free some space and start the run "
                            "again: it continues from its last checkpoint") from error


def card_text(name: str, facts: Mapping[str, object], settings: Mapping[str, object]) -> str:
    """The README of a model folder: what it was made of, by which settings, with which result."""
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    told = json.dumps(settings, indent=2, ensure_ascii=False, sort_keys=True)
    return (f"# {name}\n\nFine-tuned by the SFT experiment platform. Objective, minimised: "
            "L = SFT + λ · LM(replay) + β · KL(tuned ‖ base), each a mean over tokens.\n\n"
            f"| | |\n|---|---|\n{rows}\n\n## Training settings\n\n```json\n{told}\n```\n")


@torch.no_grad()
def _token_log_probs(model: Any, micro: Micro) -> Tensor:
    """log π(target) [n] in float32, without autocast."""
    hidden = hidden_of(model, micro.ids, micro.positions, micro.mask)
    chosen = hidden.reshape(-1, hidden.shape[-1]).index_select(0, micro.places)
    logits = head_of(model)(chosen).float()
    return torch.log_softmax(logits, dim=-1).gather(1, micro.targets[:, None]).squeeze(1)


def _draft(folder: Path) -> Path:
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    return draft


def _put(draft: Path, folder: Path) -> None:
    give_usual_mode(draft)
    for path in (*draft.iterdir(), draft):
        sync(path)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    sync(folder.parent)
