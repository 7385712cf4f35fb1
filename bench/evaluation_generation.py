"""Generated tokens per second on the same requests: lm-eval's HFLM with batch size 1 and `auto`, and ours, in turn.

`auto` stands for the best of several fixed batch sizes, which is what its search would find at best. The search itself
(forward passes of 64 rows over the whole window, minutes on a CPU) is left out, to its advantage.
"""

from __future__ import annotations

import contextlib
import io
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval_suites.backends.local import Local
from eval_suites.lm_door.door import language_model

AUTO = (8, 16, 64)
WORDS = ("seven", "farmers", "carry", "apples", "over", "the", "bridge", "and", "sell", "half", "of", "them", "each",
         "day", "how", "many", "are", "left", "when", "it", "rains")


def requests(count: int, longest: int) -> list[Any]:
    """Requests for free answers behind prompts of 40 to 400 words; each may take `longest` new tokens."""
    drawn = random.Random(0)
    texts = [" ".join(drawn.choices(WORDS, k=drawn.randint(40, 400))) for _ in range(count)]
    kwargs = {"until": ["\n\nQuestion:"], "max_gen_toks": longest, "do_sample": False}
    return [Instance("generate_until", {}, (text, dict(kwargs)), number) for number, text in enumerate(texts)]


def throughput(model: Path, count: int, longest: int, rounds: int) -> dict[str, float]:
    """Median tokens per second of `bs1`, `auto` and `ours`, with the model loaded.

    Raises:
        SystemExit: the answers are not the same texts.
    """
    network: Any = AutoModelForCausalLM.from_pretrained(model).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    makers: dict[str, Callable[..., Any]] = {
        "bs1": lambda: HFLM(network, tokenizer=tokenizer, batch_size=1, backend="causal"),
        **{f"bs{size}": lambda size=size: HFLM(network, tokenizer=tokenizer, batch_size=size, backend="causal")
           for size in AUTO},
        "ours": lambda: language_model(network, tokenizer, None, "bench", Local(network, None)),
    }
    rates: dict[str, list[float]] = {name: [] for name in makers}
    texts: dict[str, Sequence[str]] = {}
    for _ in range(rounds):
        for name, make in makers.items():
            asked, lm = requests(count, longest), make()
            started = time.monotonic()
            with contextlib.redirect_stderr(io.StringIO()), torch.inference_mode():
                texts[name] = lm.generate_until(asked)
            took = time.monotonic() - started
            rates[name].append(sum(len(tokenizer.encode(text)) for text in texts[name]) / took)
    same = sum(a == b for a, b in zip(texts["bs1"], texts["ours"], strict=True))
    if same < 0.9 * count:  # a batch rounds otherwise: near-ties of a random model may fall the other way
        raise SystemExit(f"only {same} of {count} answers are those of HFLM with batch size 1")
    found = {name: median(values) for name, values in rates.items()}
    return found | {"auto": max(found[f"bs{size}"] for size in AUTO), "same_answers": same / count}
