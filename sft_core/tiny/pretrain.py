"""Pre-training of the tiny model: rows of documents, Muon for matrices, AdamW for the rest, one thread.

One thread, a fixed order of data and deterministic kernels: the same machine class gives the same bits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sft_core.stopping import check
from sft_core.tiny import text
from sft_core.tiny.world import World, stream


@dataclass(frozen=True)
class Recipe:
    """How a base is made. Lengths in tokens, rates as the optimisers take them, shares of all steps."""

    steps: int = 3200
    rows: int = 8
    context: int = 256
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    ffn: int = 512
    init_std: float = 0.06
    muon_rate: float = 0.01
    adam_rate: float = 2.5e-3
    copying_only: float = 0.12
    """Share of the steps, at the start, with copy drills alone."""
    curriculum: float = 0.45
    """Share of the steps after which all towns are in and the mixture is final; before it, towns enter evenly."""
    first_towns: int = 8
    copying_last: float = 0.15
    """Final share of copy drills; falls evenly from 1 over the curriculum."""


class Batch(NamedTuple):
    """`ids` and `weights`, both [rows, context]; a weight is that of predicting this token."""

    ids: Tensor
    weights: Tensor


Progress = Callable[[int, int, float], None]
"""Called with (step, steps, weighted mean loss in nats)."""


def fresh_model(recipe: Recipe, vocabulary: int, seed: int) -> LlamaForCausalLM:
    """A Llama with random weights in float32."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=recipe.hidden,
            intermediate_size=recipe.ffn,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            max_position_embeddings=recipe.context,
            initializer_range=recipe.init_std,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=1,
        )
    )


def batches(
    recipe: Recipe, world: World, tokenizer: PreTrainedTokenizerFast, held_out: Container[str]
) -> Iterator[Batch]:
    """`recipe.steps` batches of whole documents laid end to end; a row may cut a document, the next row goes on."""
    rng = stream(world.seed, "pretrain")
    size = recipe.rows * recipe.context
    ids: list[int] = []
    weights: list[float] = []
    for step in range(recipe.steps):
        draw = draw_at(recipe, step, world, held_out)
        while len(ids) < size:
            drawn = [text.document(rng, world, draw) for _ in range(64)]
            for document_ids, document_weights in _encode(tokenizer, drawn):
                ids += document_ids
                weights += document_weights
        yield Batch(
            torch.tensor(ids[:size]).view(recipe.rows, recipe.context),
            torch.tensor(weights[:size]).view(recipe.rows, recipe.context),
        )
        del ids[:size], weights[:size]


def draw_at(recipe: Recipe, step: int, world: World, held_out: Container[str]) -> text.Draw:
    """What the text of a step is drawn from: copying first, then more and more towns."""
    grown = (step / recipe.steps - recipe.copying_only) / (recipe.curriculum - recipe.copying_only)
    grown = min(1.0, max(0.0, grown))
    towns = recipe.first_towns + round(grown * (len(world.towns) - recipe.first_towns))
    return text.Draw(world.towns[:towns], 1.0 + grown * (recipe.copying_last - 1.0), held_out)


def _encode(
    tokenizer: PreTrainedTokenizerFast, documents: list[text.Document]
) -> Iterator[tuple[list[int], list[float]]]:
    """Ids of each document with its end token, and for each token the weight of the span that it ends in."""
    encoded = tokenizer([text.plain(d) for d in documents], return_offsets_mapping=True)
    for spans, ids, offsets in zip(documents, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        per_letter = [span.weight for span in spans for _ in span.text]
        # The end follows from what was said: it is trained like the last token before it.
        yield [*ids, tokenizer.eos_token_id], [*(per_letter[end - 1] for _, end in offsets), text.PLAIN]


def pretrain(
    model: LlamaForCausalLM, recipe: Recipe, source: Iterator[Batch], progress: Progress | None = None
) -> None:
    """Train `model` in place on the batches of `source`, rates falling linearly to zero."""
    optimizers = _optimizers(model, recipe)
    model.train()
    for step, batch in enumerate(source):
        check()
        rate = min(1.0, (step + 1) / 20) * (1 - step / recipe.steps)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * rate
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=batch.ids, use_cache=False).logits
        loss = weighted_loss(logits, batch)
        torch.autograd.backward(loss)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if progress is not None:
            progress(step + 1, recipe.steps, loss.item())


def weighted_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Weighted mean cross-entropy in nats of logits [rows, context, vocabulary]; the shift happens here."""
    weights = batch.weights[:, 1:].flatten()
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch.ids[:, 1:].flatten(), reduction="none")
    return (losses * weights).sum() / weights.sum()


def _optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=recipe.adam_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def token_count(recipe: Recipe) -> int:
    """Tokens that a recipe trains on."""
    return recipe.steps * recipe.rows * recipe.context


def sample_texts(world: World, count: int, rng: random.Random, held_out: Container[str]) -> list[str]:
    """`count` documents over all towns at the final mixture, as plain text, without the questions of `tiny_mmlu`."""
    draw = text.Draw(world.towns, Recipe.copying_last, held_out, examined=False)
    return [text.plain(text.document(rng, world, draw)) for _ in range(count)]
