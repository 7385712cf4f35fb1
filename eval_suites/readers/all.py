"""Which readers there are, by the name that a suite gives. Each takes the path of its file or folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from eval_suites.chat_item import ChatItem, LikelihoodItem
from eval_suites.readers.bfcl import read_bfcl

READERS: Mapping[str, Callable[[Path], list[ChatItem]]] = {
    "bfcl": read_bfcl,
}
"""For the engine `generate`."""
TEXT_READERS: Mapping[str, Callable[[Path], list[LikelihoodItem]]] = {}
"""For the engine `likelihood`."""
