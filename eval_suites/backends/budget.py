"""How many padded tokens a batch of evaluation holds: what the user says, or what fits into free memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sft_core.errors import EvalError

log = logging.getLogger("sft")


class Budget:
    """Padded tokens of a batch, halved when memory runs out.

    Args:
        tokens: to begin with.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens, self._told = tokens, False

    @contextmanager
    def spending(self, rows: int, tokens: int) -> Iterator[None]:
        """Compute a batch of so many rows and padded tokens.

        Raises:
            Smaller: it did not fit; the budget was lowered, and nothing of the batch was told to anybody.
            EvalError: a single row does not fit.
        """
        try:
            yield
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            if rows == 1:
                raise EvalError(f"one input of {tokens} tokens does not fit into the memory of the device: {error}; "
                                "evaluate on a larger one, in a smaller precision, or leave the suite out") from error
            self.tokens = max(min(self.tokens, tokens) // 2, 1)
        else:
            return
        if not self._told:
            log.warning("evaluation ran out of memory with a batch of %d tokens and goes on with at most %d, or fewer "
                        "again; eval.batch_tokens says so from the start", tokens, self.tokens)
        self._told = True
        raise Smaller


class Smaller(Exception):
    """A batch did not fit; ask for the next one again."""


def _out_of_memory(error: RuntimeError) -> bool:
    """CUDA's has a class of its own; that of the CPU is known by its words."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
