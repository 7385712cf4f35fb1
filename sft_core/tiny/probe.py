"""A quick score of what a checkpoint knows, in the way lm-eval scores `tiny_mmlu` and `tiny_gsm8k` (strict)."""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from sft_core.tiny.items import gsm8k_items, mmlu_items
from sft_core.tiny.world import World

BATCH = 50
MAX_NEW_TOKENS = 48


class Scores(NamedTuple):
    """Shares of right answers, 0 to 1."""

    tiny_mmlu: float
    tiny_gsm8k: float


def probe(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World) -> Scores:
    """Score all items; `model` is left in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        return Scores(_mmlu(model, tokenizer, world), _gsm8k(model, tokenizer, world))


def _mmlu(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World) -> float:
    """Every choice is one token, so the likeliest choice is the largest of four logits after the question."""
    items = mmlu_items(world)
    hits = 0
    for start in range(0, len(items), BATCH):
        part = items[start : start + BATCH]
        batch = _left_padded(tokenizer, [str(item["question"]) for item in part])
        logits = model(**batch).logits[:, -1]
        for item, row in zip(part, logits, strict=True):
            choices = [tokenizer.encode(f" {choice}", add_special_tokens=False) for choice in item["choices"]]
            hits += int(row[[ids[0] for ids in choices]].argmax()) == item["answer"]
    return hits / len(items)


def _gsm8k(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World) -> float:
    items = gsm8k_items(world)
    hits = 0
    for start in range(0, len(items), BATCH):
        part = items[start : start + BATCH]
        batch = _left_padded(tokenizer, [str(item["question"]) for item in part])
        out = model.generate(**batch, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        said = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        hits += sum(_result(text) == _result(str(item["answer"])) for text, item in zip(said, part, strict=True))
    return hits / len(items)


def _result(text: str) -> str | None:
    found = re.search(r"#### (-?[0-9.,]+)", text)
    return found and found.group(1)


def _left_padded(tokenizer: PreTrainedTokenizerFast, questions: list[str]) -> dict[str, torch.Tensor]:
    prompts = [f"Question: {question}\nAnswer:" for question in questions]
    encoded = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}
