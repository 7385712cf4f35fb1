"""Why trials failed, with all that is each trial's own taken out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_OWN = (re.compile(r"\S*/\S*"), re.compile(r"\b(?=\w*\d)[0-9a-f]{6,}\b"), re.compile(r"\d[\d.,]*"))
"""Paths, ids and numbers."""


def common_cause(reasons: Sequence[str]) -> str:
    """How many have the most frequent cause, and the last of these in its own words.

    Args:
        reasons: at least one; paths, ids and numbers make no other cause.
    """
    causes = [_cause(one) for one in reasons]
    cause, count = Counter(causes).most_common(1)[0]
    last = [one for one, of in zip(reasons, causes, strict=True) if of == cause][-1]
    return f"{'all' if count == len(reasons) else count} of them with: {last}"


def _cause(reason: str) -> str:
    for own in _OWN:
        reason = own.sub("…", reason)
    return " ".join(reason.split())
