"""What fits where: the table in docs/GPU.md, made by the forecast.

    python -m bench.memory [--write]

Shapes of known models, as their config.json has them; no weight is loaded or fetched. One row of 4,096 tokens in a
forward pass, half of them trained, gradients accumulated, gradient checkpointing, products in bfloat16. `--write` puts
the table into docs/GPU.md.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, Qwen2Config
from transformers.utils import logging

from sft_core.config.data import ModelSection
from sft_core.config.train import TrainSection
from sft_core.train.memory import Pass, Place, forecast
from sft_core.train.shape import Architecture, architecture_of

DOCS = Path(__file__).resolve().parents[1] / "docs" / "GPU.md"
BEGIN, END = "<!-- bench.memory -->\n", "<!-- end -->\n"
TOKENS = 4096
GIB = 2**30
CONTEXT = GIB  # a CUDA context, its libraries and what the allocator leaves between tensors
CARDS = {24: 23.5, 80: 79.0, 141: 139.0}  # GB on the box → GiB that a process can have
LLAMA = {"vocab_size": 128256, "num_key_value_heads": 8}
QWEN = {"vocab_size": 152064, "num_key_value_heads": 8, "num_attention_heads": 40, "hidden_size": 5120}
MODELS: dict[str, Any] = {
    "1 B (Llama 3.2)": LlamaConfig(**LLAMA, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                                   num_attention_heads=32, tie_word_embeddings=True, dtype="bfloat16"),
    "3 B (Llama 3.2)": LlamaConfig(**LLAMA, hidden_size=3072, intermediate_size=8192, num_hidden_layers=28,
                                   num_attention_heads=24, tie_word_embeddings=True, dtype="bfloat16"),
    "8 B (Llama 3.1)": LlamaConfig(**LLAMA, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                                   num_attention_heads=32, tie_word_embeddings=False, dtype="bfloat16"),
    "14 B (Qwen 2.5)": Qwen2Config(**QWEN, intermediate_size=13824, num_hidden_layers=48, tie_word_embeddings=False,
                                   dtype="bfloat16"),
    "32 B (Qwen 2.5)": Qwen2Config(**QWEN, intermediate_size=27648, num_hidden_layers=64, tie_word_embeddings=False,
                                   dtype="bfloat16"),
    "70 B (Llama 3.1)": LlamaConfig(**LLAMA, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80,
                                    num_attention_heads=64, tie_word_embeddings=False, dtype="bfloat16"),
}
EIGHT = {"name": "adamw_8bit", "lr": 1e-5}
LORA = {"method": "lora", "lora": {"rank": 16}}
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "full, 8-bit moments": {"optim": EIGHT},
    "full, bfloat16 weights, 8-bit moments": {"optim": EIGHT, "weights": "bfloat16"},
    "LoRA r16": LORA,
    "QLoRA r16": {"method": "lora", "lora": {"rank": 16, "quantize": "nf4"}},
}
SHARED = {"processes": 8, "shard": "fsdp"}


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser("bench.memory", description="What fits where, by the forecast.")
    parser.add_argument("--write", action="store_true", help="into docs/GPU.md")
    if not parser.parse_args().write:
        print(table())
        return
    before, _, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
    DOCS.write_text(f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}", encoding="utf-8")


def table(models: tuple[str, ...] = tuple(MODELS)) -> str:
    """The table as Markdown, of these models."""
    lines = ["| model | method | GiB held | GiB at the peak | 1 × 24 | 1 × 80 | 1 × 141 | 8 × 80, each |",
             "|---|---|---|---|---|---|---|---|"]
    for model in models:
        for method, fields in METHODS.items():
            held, peak = _sizes(model, fields)
            cards = [_word(peak, room) for room in CARDS.values()]
            lines.append(f"| {model} | {method} | {held / GIB:.0f} | {peak / GIB:.0f} | {' | '.join(cards)} | "
                         f"{_eight(model, method, peak)} |")
    return "\n".join(lines) + "\n"


def _eight(model: str, method: str, alone: int) -> str:
    """Whether it fits on each of eight cards: whole on each of them (DDP), or shared out where that can be."""
    room = CARDS[80]
    if _word(alone, room) == "yes":
        return "yes, `none`"
    if method not in ("full", "LoRA r16"):
        return "no"
    peak = _sizes(model, METHODS[method] | SHARED)[1]
    return f"{_word(peak, room)}, `fsdp` ({peak / GIB:.0f})"


def _word(peak: int, room: float) -> str:
    return "yes" if peak + CONTEXT <= room * GIB else "no"


def _sizes(model: str, fields: dict[str, Any]) -> tuple[int, int]:
    """Bytes during the whole run, and at its peak."""
    plain = {"optim": {"lr": 1e-5}, "gradient_checkpointing": True, "micro_rows": 1}
    section = TrainSection.model_validate({**plain, **fields})
    work = Pass(1, TOKENS, (TOKENS,), TOKENS // 2, several=True)
    found = forecast(_shape(model, section.method), section, work, Place("cuda", torch.bfloat16, "varlen"))
    return found.resident, found.peak


@cache
def _shape(model: str, method: str) -> Architecture:
    logging.set_verbosity_error()
    section = TrainSection.model_validate({"optim": {"lr": 1e-5}, **(LORA if method == "lora" else {})})
    with tempfile.TemporaryDirectory() as folder:
        MODELS[model].save_pretrained(folder)
        return architecture_of(ModelSection(path=folder), section, None, grown=False)


if __name__ == "__main__":
    main()
