"""A random Llama with a byte-level tokenizer, and readable results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eval_suites.results import ItemResult, SuiteResult

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
JINJA = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and the three control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved random Llama (hidden 32, 2 layers, window 256) without a chat template."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=4, vocab_size=len(tokenizer), max_position_embeddings=256,
                         eos_token_id=tokenizer.eos_token_id, bos_token_id=None, initializer_range=0.2)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def make_result() -> Callable[..., SuiteResult]:
    """Results from a row of scores: item i has id `q/i`."""

    def make(scores: Sequence[float | None], suite: str = "facts", kind: str = "capability",
             clusters: Sequence[str] | None = None, protocol: dict[str, object] | None = None) -> SuiteResult:
        items = tuple(
            ItemResult(suite, "q", f"q/{i}", clusters[i] if clusters else f"q/{i}", score, {}, f"question {i}",
                       f"answer {i} of {suite}", "target", "" if score == 1 else "wrong", f"asked {i}")
            for i, score in enumerate(scores))
        return SuiteResult(suite, kind, protocol or {"version": 1}, items, 0.5)

    return make
