"""Time from rows to the first step, against the time that the tokenizer alone needs for the same text."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bench.train_data import lengths
from bench.train_native import native_stepper
from sft_core.config.data import DataSection, ModelSection, TemplateSection
from sft_core.config.train import TrainSection
from sft_core.data.curate.chain import curate_here
from sft_core.data.prepare import prepare
from sft_core.data.workers import processes
from sft_core.train.inputs import TrainInputs

MAX_TOKENS = 1024


def rows_of(count: int, seed: int) -> list[dict[str, str]]:
    """Alpaca rows of made-up words with a natural skew (Zipf) and Alpaca's lengths."""
    rng = random.Random(seed)
    letters = "etaoinshrdlucmfwygpbvk"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(5_000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    rows = []
    for length in lengths(count, seed):
        text = rng.choices(words, weights, k=max(4, round(0.8 * length)))
        cut = max(2, len(text) // 3)
        rows.append({"instruction": " ".join(text[:cut]), "output": " ".join(text[cut:])})
    return rows


def first_step(root: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Seconds of prepare, set-up and one step over those of the tokenizer's own batch call; and the parts.

    Curation is off: it looks at the rows and not at tokens. The tokenizer encodes the same texts in one call, in as
    many threads as there are cores; preparation has as many processes.
    """
    root.mkdir(parents=True, exist_ok=True)
    rows = rows_of(count, seed=0)
    file, out = root / "rows.jsonl", root / "prepared"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tokenizer = _model(root / "model", [row["output"] for row in rows[:5_000]])
    texts = [f"<|im_start|>user\n{r['instruction']}<|im_end|>\n<|im_start|>assistant\n{r['output']}<|im_end|>\n"
             for r in rows]
    began = time.perf_counter()
    tokenizer(texts, add_special_tokens=False)
    alone = time.perf_counter() - began
    out.mkdir()
    data = DataSection.model_validate({
        "sources": [{"path": str(file)}], "max_tokens": MAX_TOKENS, "too_long": "drop", "decontaminate": "off",
        "normalise": {"kinds": []}, "quality": {"measure": False}, "pii": {"action": "off"},
        "duplicates": {"exact": False, "near": False}, "validation_share": 0.0})
    began = time.perf_counter()
    with processes(None) as workers:
        prepare(data, TemplateSection(name="chatml"), tokenizer=tokenizer, replay=(), eval_items=(), seed=0,
                mirror=None, curated=curate_here(data, (), root / "curated", workers=workers), out=out,
                workers=workers)
    prepared = time.perf_counter() - began
    section = TrainSection.model_validate({"optim": {"lr": 1e-4}, "rows_per_step": 1, "micro_rows": 1})
    inputs = TrainInputs(prepared=out, model=ModelSection(path=str(root / "model"), device="cpu"),
                         max_tokens=MAX_TOKENS, pack=True, seed=0)
    native_stepper(inputs, section, root / "run")()
    whole = time.perf_counter() - began
    return whole / alone, {"rows": count, "tokenizer_s": alone, "prepare_s": prepared, "first_step_s": whole}


def write_tokenizer(folder: Path, texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 8,192 tokens, trained on these texts."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|pad|>", "<|im_start|>", "<|im_end|>"]
    inner.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=8_192, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=special[0], pad_token=special[1],
                                        additional_special_tokens=special[2:])
    tokenizer.save_pretrained(folder)
    return tokenizer


def _model(folder: Path, texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = write_tokenizer(folder, texts)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                         num_attention_heads=2, max_position_embeddings=MAX_TOKENS, bos_token_id=0, eos_token_id=0,
                         pad_token_id=1)
    LlamaForCausalLM(config).save_pretrained(folder)
    return tokenizer
