"""What is put right in the texts of conversations before anything is measured on them."""

from __future__ import annotations

from typing import Literal, get_args

from sft_core.config.section import Section

Normalisation = Literal["encoding", "line_ends", "control", "unicode", "html"]


class NormaliseSection(Section):
    kinds: tuple[Normalisation, ...] = get_args(Normalisation)
    """What to put right, counted by kind; `[]` leaves every text as it was read. `encoding`: UTF-8 that was read as
    something else (`donâ€™t`); `line_ends`: CRLF, CR and their kin become line feeds; `control`: control characters,
    colours of a terminal, and characters without width go where no script and no emoji needs them; `unicode`: NFC;
    `html`: `&amp;`, `<br>` and `<p>` that were left over in a text that is not about markup and holds no code."""
