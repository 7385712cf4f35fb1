"""Which rows can be trained: they can be rendered, and fit into `data.max_tokens`. Measured where rows are selected, so
that none is chosen which then goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from sft_core.conversation import Conversation, Rejected
from sft_core.data.curate.measure import Family, Fit, write_facts
from sft_core.data.rendering import Recipe
from sft_core.templates.truncate import fit


def fits_by(settings: object, recipe: Callable[[], Recipe]) -> Family:
    """Measured by rendering. `settings`: what it hangs on besides rows and code."""
    return Family("fits", ("sft_core.data.curate.fits",), settings, lambda: partial(_fits, recipe=recipe()))


def _fits(conversations: Sequence[Conversation], out: Path, *, recipe: Recipe) -> None:
    found = fit(conversations, recipe.renderer, recipe.data)
    write_facts([[Fit(str(one.why), one.detail) if isinstance(one, Rejected) else Fit("", "") for one in found]], out)
