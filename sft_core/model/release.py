"""GPU memory that models took, given back when their work is done.

A model is a circle of references, which Python collects some time, and torch keeps what it was once given. So a process
that has evaluated a model, or trained one, would still hold the memory that its children are to train in.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def give_back() -> None:
    """Free what no variable holds any more; nothing to do where no GPU is in use. What remains is CUDA's context, about
    half a gigabyte."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        gc.collect()
        torch.cuda.empty_cache()


@contextmanager
def giving_back() -> Iterator[None]:
    """For a function that loads models: `give_back` when it has returned or raised, and its variables are gone."""
    try:
        yield
    finally:
        give_back()
