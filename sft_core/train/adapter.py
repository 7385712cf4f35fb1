"""A trained adapter: its folder, which peft loads without this platform, and its merge into the base, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sft_core.errors import TrainingError
from sft_core.model.attention import head_of
from sft_core.model.held import in_4_bits
from sft_core.model.load import LoadedModel
from sft_core.stage import whole_folder
from sft_core.train.artifact import writing
from sft_core.train.policy import Micro, Policy
from sft_core.train.workbench import Workbench

MERGE_TOLERANCE = 1e-3
"""Largest allowed difference of a token's log-probability in nats between adapter and merged weights, in float32."""


FOUR_BITS = 'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True'


class Merged(NamedTuple):
    """A plain model with an adapter in its weights."""

    model: Any
    log_probs: Tensor  # [n] what the adapter had said of some tokens, on the CPU


def merge_adapter(model: Any, micro: Micro) -> Merged:
    """Merge a trained PeftModel into its base.

    Args:
        micro: some rows on which adapter and merged model must agree.

    Raises:
        TrainingError: they differ by more than MERGE_TOLERANCE.
    """
    model.eval()
    before = token_log_probs(model, micro)
    merged = model.merge_and_unload()
    gap = float((token_log_probs(merged, micro) - before).abs().max())
    if not gap <= MERGE_TOLERANCE:
        raise TrainingError(f"merging the adapter changed log-probabilities by up to {gap:.2g} nats (allowed "
                            f"{MERGE_TOLERANCE:g}); the adapter is good, the merged model was not saved")
    return Merged(merged, before)


def save_adapter(model: Any, loaded: LoadedModel, bench: Workbench, folder: Path) -> None:
    """Write the adapter with the tokenizer and a README, so that peft loads it without this platform.

    Raises:
        TrainingError: the folder cannot be written.
    """
    path = bench.inputs.model.path
    base = str(loaded.folder.resolve()) if path == "tiny" or Path(path).expanduser().is_dir() else path
    model.peft_config["default"].base_model_name_or_path = base
    rows = model.get_input_embeddings().weight.shape[0]
    with whole_folder(folder, writing) as draft, writing(folder):
        # False: modules_to_save are stored anyway, and "auto" would ask the hub about the base.
        model.save_pretrained(draft, safe_serialization=True, save_embedding_layers=False)
        loaded.tokenizer.save_pretrained(draft)
        (draft / "README.md").write_text(_card(base, rows, bench), encoding="utf-8")


def _card(base: str, rows: int, bench: Workbench) -> str:
    """The README of an adapter folder: how peft loads it on the base that it was trained on.

    Args:
        rows: of the embedding that the adapter was trained with.
    """
    template, low = bench.template, in_4_bits(bench.policy.model)
    how = f", quantization_config=BitsAndBytesConfig(\n    {FOUR_BITS})" if low else ""
    short = "" if low else "`peft.AutoPeftModelForCausalLM.from_pretrained(ADAPTER)` does the same in one line.\n"
    grown = f"base.resize_token_embeddings({rows}, mean_resizing=False)\n" if template.added else ""
    why = (f"\nThe template {template.name} added tokens ({', '.join(template.added)}): the embedding has {rows} rows, "
           "and the tokenizer of this folder knows them.\n" if template.added else "")
    return (f"---\nlibrary_name: peft\n---\n\n# Adapter on {base}\n{why}\n```python\n"
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer"
            f"{', BitsAndBytesConfig' if low else ''}\n\n"
            "tokenizer = AutoTokenizer.from_pretrained(ADAPTER)  # this folder\n"
            f"base = AutoModelForCausalLM.from_pretrained({base!r}{how})\n{grown}"
            f"model = PeftModel.from_pretrained(base, ADAPTER)\n```\n\n{short}")


@torch.no_grad()
def token_log_probs(model: Any, micro: Micro) -> Tensor:
    """log π(target) [n] in float32, without autocast, on the CPU."""
    logits = head_of(model)(Policy.selected(model, micro)).float()
    return torch.log_softmax(logits, dim=-1).gather(1, micro.targets[:, None]).squeeze(1).cpu()
