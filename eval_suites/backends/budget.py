"""How many padded tokens a batch of evaluation holds: what the user says, or what fits into free memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sft_core.errors import EvalError
from sft_core.model.room import free_bytes, is_short

log = logging.getLogger("sft")
SHARE = {"cpu": 0.25, "cuda": 0.5}
"""Of free memory; a CPU's is everybody's, and an estimate is no measure."""
MOST = {"cpu": 16_384, "cuda": 262_144}
"""Larger batches are not faster."""
LEAST = 1024


class Budget:
    """Padded tokens of a batch, halved when memory runs out.

    Args:
        model: on its device.
        tokens: to begin with; None: what free memory holds now.
    """

    def __init__(self, model: Any, tokens: int | None) -> None:
        self.tokens, self._told = tokens or fitting(model), False

    @contextmanager
    def spending(self, rows: int, tokens: int) -> Iterator[None]:
        """Compute a batch of so many rows and padded tokens.

        Raises:
            Smaller: it did not fit; the budget was lowered, and nothing of the batch was told to anybody.
            EvalError: a single row does not fit.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_short(error):
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


def fitting(model: Any) -> int:
    """Padded tokens for which there is memory beside the model, by its shape."""
    kind = model.device.type
    free = free_bytes(model.device)
    if kind == "cuda":  # what torch holds for itself and does not use
        free += torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    tokens = int(free * SHARE.get(kind, 0.25)) // _bytes_per_token(model)
    return min(max(tokens, LEAST), MOST.get(kind, MOST["cpu"]))


def _bytes_per_token(model: Any) -> int:
    """Keys and values, held and joined, and about what one layer computes from a token."""
    config = model.config.get_text_config()
    hidden, heads = config.hidden_size, getattr(config, "num_attention_heads", None) or 1
    width = getattr(config, "head_dim", None) or hidden // heads
    width *= getattr(config, "num_key_value_heads", None) or heads
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    numbers = 4 * config.num_hidden_layers * width + 16 * hidden + 4 * inner
    return int(numbers * model.dtype.itemsize)


class Smaller(Exception):
    """A batch did not fit; ask for the next one again."""
