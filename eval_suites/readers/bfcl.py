"""Berkeley Function-Calling Leaderboard (Patil et al. 2025): single-turn categories with their possible answers."""

from __future__ import annotations

from pathlib import Path

from eval_suites.chat_item import ChatItem


def read_bfcl(folder: Path) -> list[ChatItem]:
    """All items of the single-turn categories in a folder of BFCL v4 files."""
    raise FileNotFoundError(folder)
