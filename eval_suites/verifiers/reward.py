"""A reward model: a sequence classifier of transformers that reads prompt and answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval_suites.scorers.base import Score
from eval_suites.verifiers.contract import Answered, Prompted, Verifier
from sft_core.config.synth import RewardSection
from sft_core.errors import EvalError
from sft_core.stopping import check

BATCH = 16
MOST_TOKENS = 4096
"""Of a prompt with its answer, where the model itself sets no lower limit; the beginning goes first."""


def reward(section: RewardSection, mirror: Path | None) -> Verifier:
    """Its one output as it is; of several classes the probability of `label`.

    Args:
        mirror: folder with hub models, or None for the hub.

    Raises:
        EvalError: it cannot be loaded, has no such class, or has several and none is named.
    """
    tokenizer, model = _load(section.model, mirror)
    wanted = _wanted(section, model)

    def score(answered: Sequence[Answered]) -> list[Score]:
        texts = [_text(tokenizer, *one) for one in answered]
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        found: dict[int, Score] = {}
        for start in range(0, len(order), BATCH):
            check()
            some = order[start:start + BATCH]
            for at, value in zip(some, _rewards(tokenizer, model, [texts[at] for at in some], wanted), strict=True):
                found[at] = Score(value, {}) if math.isfinite(value) else Score(None, {}, "the reward is not finite")
        return [found[at] for at in range(len(texts))]

    return Verifier("reward", section.at_least, score, ranks=True)


def _load(path: str, mirror: Path | None) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    local = mirror / path if mirror is not None and (mirror / path).is_dir() else path
    try:
        tokenizer = AutoTokenizer.from_pretrained(local, truncation_side="left")
        return tokenizer, AutoModelForSequenceClassification.from_pretrained(local).eval()
    except (OSError, ValueError) as error:
        raise EvalError(f"reject.verify.reward.model: {path!r} cannot be loaded ({str(error).splitlines()[0]}); give "
                        "the folder or hub id of a sequence classifier") from error


def _wanted(section: RewardSection, model: Any) -> int | None:
    """The place of the class whose probability counts; None where there is one output."""
    names = [str(model.config.id2label[place]) for place in range(model.config.num_labels)]
    if len(names) == 1 and section.label is None:
        return None
    if section.label not in names:
        raise EvalError(f"reject.verify.reward.label is {section.label!r}, and the classes of {section.model} are "
                        f"{', '.join(names)}; name the one that is wanted, or none where it has one output")
    return names.index(section.label)


def _text(tokenizer: Any, prompted: Prompted, answer: str) -> str:
    """Through the model's own template where it has one."""
    messages = [*prompted.messages, {"role": "assistant", "content": answer}]
    if tokenizer.chat_template:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    return "\n\n".join(str(one.get("content") or "") for one in messages)


@torch.inference_mode()
def _rewards(tokenizer: Any, model: Any, texts: list[str], wanted: int | None) -> list[float]:
    positions = getattr(model.config, "max_position_embeddings", MOST_TOKENS)
    longest = min(tokenizer.model_max_length, positions, MOST_TOKENS)
    if tokenizer.pad_token is None or model.config.pad_token_id is None:  # a causal one cannot tell padding from text
        parts = [_logits(tokenizer, model, [text], longest) for text in texts]
        logits = torch.cat(parts)
    else:
        logits = _logits(tokenizer, model, texts, longest)
    values = logits[:, 0] if wanted is None else logits.softmax(-1)[:, wanted]
    return [float(one) for one in values]


def _logits(tokenizer: Any, model: Any, texts: list[str], longest: int) -> Tensor:
    batch = tokenizer(texts, padding=len(texts) > 1, truncation=True, max_length=longest, return_tensors="pt")
    found: Tensor = model(**batch.to(model.device)).logits.float()
    return found
