"""Noise in training that the base's own config asks for: dropout, and jitter of routers."""

from __future__ import annotations

from typing import Any

OTHER_NOISE = ("classifier", "summary", "encoder")
"""How fields of configs begin that tell of noise outside a language model."""


def own_noise(config: Any) -> str:
    """What the base drops or shakes at random in training by its own config, said in a sentence; nothing where it does
    not."""
    fields = config.get_text_config().to_dict()
    found = [f"{name}: {value:g}" for name, value in fields.items()
             if ("drop" in name or "jitter" in name) and type(value) in (float, int) and value > 0
             and not name.startswith(OTHER_NOISE)]
    return "" if not found else (f"the base's config adds noise in training ({', '.join(found)}), which stays on; set "
                                 "that to 0 in its config.json to train without")
