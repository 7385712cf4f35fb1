"""Which readers there are, by the name that a suite gives. Each takes the path of its file or folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from eval_suites.suites.chat_item import ChatItem, LikelihoodItem
from eval_suites.suites.readers.bfcl import read_bfcl
from eval_suites.suites.readers.open_ended import read_mt_bench
from eval_suites.suites.readers.safety import (
    read_advbench,
    read_harmbench,
    read_simple_safety_tests,
    read_strongreject,
    read_xstest,
)
from eval_suites.suites.readers.text import read_answers, read_text

READERS: Mapping[str, Callable[[Path], list[ChatItem]]] = {
    "bfcl": read_bfcl,
    "mt_bench": read_mt_bench,
    "xstest": read_xstest,
    "advbench": read_advbench,
    "harmbench": read_harmbench,
    "strongreject": read_strongreject,
    "simple_safety_tests": read_simple_safety_tests,
}
"""For the engine `generate`."""
TEXT_READERS: Mapping[str, Callable[[Path], list[LikelihoodItem]]] = {
    "text": read_text,
    "answers": read_answers,
}
"""For the engine `likelihood`."""
