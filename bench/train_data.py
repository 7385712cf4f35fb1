"""What the training bench trains: a random Llama, a word-level tokenizer, and made-up chats of Alpaca's lengths.

Lengths. The whole chats of Alpaca (`random_9k.json` of the shared folder: 9,229 rows, a byte-level BPE of 8,192 tokens
trained on them, ChatML with its 10 tokens a chat) have ln(tokens) of mean 4.346 and standard deviation 0.6135. A
lognormal of these two numbers has nearly the same quantiles (tokens; Alpaca | lognormal):

    1 %: 24 | 18   25 %: 46 | 51   50 %: 77 | 77   75 %: 123 | 116   90 %: 169 | 168   99 %: 326 | 317
    99.9 %: 511 | 509

In Alpaca 0.7 of the tokens are answers; here the share of a chat that is trained is drawn evenly from 0.25 to 0.75, so
that about half of all tokens are trained. Ids are drawn at random: speed does not hang on them.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sft_core.templates.render import IGNORE

LOG_MEAN, LOG_SPREAD = 4.346, 0.6135
SHORTEST, LONGEST = 12, 512  # tokens of a chat; one in a thousand would be longer
SPECIAL = ["<|end|>", "<|pad|>", "<|im_start|>", "<|im_end|>", "<|unknown|>"]


class Shape(NamedTuple):
    """A Llama shape; heads of `head` dimensions, intermediate width 8/3 of the width."""

    name: str
    vocabulary: int
    width: int
    layers: int
    head: int
    tied: bool = True
    key_value_heads: int | None = None


SHAPES = {s.name: s for s in (
    Shape("nano", 999, 64, 2, 32),  # for tests
    Shape("8k", 8_192, 256, 5, 64),  # 6.0 M parameters
    Shape("49k", 49_152, 448, 5, 64),  # 34.1 M parameters
    Shape("1b", 128_256, 2_048, 16, 64, key_value_heads=8),  # 1.1 B parameters
)}


def lengths(count: int, seed: int) -> list[int]:
    """Tokens of `count` chats."""
    rng = random.Random(seed)
    drawn = (round(rng.lognormvariate(LOG_MEAN, LOG_SPREAD)) for _ in range(count))
    return [min(LONGEST, max(SHORTEST, n)) for n in drawn]


def write_model(folder: Path, shape: Shape, dtype: torch.dtype = torch.float32) -> int:
    """Save a random model of this shape with its tokenizer; returns the number of parameters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.width * 8 // 3 // 32 * 32,
        num_hidden_layers=shape.layers, num_attention_heads=shape.width // shape.head,
        num_key_value_heads=shape.key_value_heads, max_position_embeddings=8_192, tie_word_embeddings=shape.tied,
        bos_token_id=0, eos_token_id=0, pad_token_id=1, dtype=dtype)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    model = LlamaForCausalLM(config)
    torch.set_default_dtype(before)
    model.save_pretrained(folder)
    words = SPECIAL + [f"w{i}" for i in range(len(SPECIAL), shape.vocabulary)]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=SPECIAL[-1]))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=SPECIAL[0], pad_token=SPECIAL[1],
                            additional_special_tokens=SPECIAL[2:4]).save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def write_prepared(folder: Path, chats: int, vocabulary: int, seed: int) -> None:
    """A folder as `prepare` leaves it: chats for training, as many tokens of replay text, no validation."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    for name, low, high in (("train", 0.25, 0.75), ("replay", 1.0, 1.0)):
        rows = []
        for line, length in enumerate(lengths(chats, seed), 1):
            ids = [rng.randrange(len(SPECIAL), vocabulary) for _ in range(length)]
            first = max(1, round(length * (1 - rng.uniform(low, high))))
            targets = [IGNORE] * (first - 1) + ids[first:] + [IGNORE]
            rows.append({"input_ids": ids, "targets": targets, "source": name, "file": f"{name}.jsonl", "line": line})
        schema = pa.schema([("input_ids", pa.list_(pa.int32())), ("targets", pa.list_(pa.int32())),
                            ("source", pa.string()), ("file", pa.string()), ("line", pa.int64())])
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"{name}.parquet")
    template = {"name": "bench", "stops": ["<|im_end|>"], "jinja": "{{ messages }}", "added_tokens": []}
    (folder / "template.json").write_text(json.dumps(template), encoding="utf-8")
