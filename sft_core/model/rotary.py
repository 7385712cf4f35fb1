"""Rotary positions that are not the same in every batch: with `longrope` (Phi-3 and its kin) and `dynamic` scaling
transformers picks the frequencies by the largest position of all rows (`modeling_rope_utils.dynamic_rope_update`)."""

from __future__ import annotations

from typing import Any

import torch

BY_LENGTH = ("longrope", "dynamic")


def turning_point(config: Any) -> int | None:
    """Tokens up to which the frequencies are always the same; None where they never change.

    That is what the model was first trained on: `longrope` names it, of `dynamic` it is the config's number of
    positions. Beyond it an input's numbers depend on the inputs beside it. The least one where scaling differs by
    layer.
    """
    text = config.get_text_config()
    return min((int(rope.get("original_max_position_embeddings") or text.max_position_embeddings)
                for rope in _by_length(text)), default=None)


def kinds_of(config: Any) -> str:
    """What the config calls the scaling that depends on the length."""
    return " and ".join(sorted({rope["rope_type"] for rope in _by_length(config.get_text_config())}))


def _by_length(text: Any) -> list[dict[str, Any]]:
    whole = getattr(text, "rope_parameters", None) or {}
    return [rope for rope in (whole, *whole.values()) if isinstance(rope, dict) and rope.get("rope_type") in BY_LENGTH]


@torch.inference_mode()
def settle(model: Any) -> None:
    """Forget the longest input so far, whose frequencies `dynamic` scaling keeps for shorter ones beyond the turning
    point, and at it: transformers goes back to the first ones when it reads less."""
    if "dynamic" in kinds_of(model.config):
        model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=model.device), use_cache=False)
