"""Token ids of a chat as lm-eval's own HFLM makes them, unmodified: both ways that it has."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.models.huggingface import HFLM


class LmIds:
    """lm-eval's HFLM around a loaded model. The tokenizer is copied: lm-eval gives it a pad token."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        logger = logging.getLogger("lm_eval")
        before = logger.level
        logger.setLevel(logging.ERROR)  # it warns of every model that is loaded already
        try:
            self._lm = self._made(model, tokenizer)
        finally:
            logger.setLevel(before)

    @staticmethod
    def _made(model: Any, tokenizer: Any) -> HFLM:
        return HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=1, backend="causal")

    def scored(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Ids of a context behind which answers are scored (`tok_encode`)."""
        return list(self._lm.tok_encode(self._lm.apply_chat_template(copy.deepcopy(list(messages)))))

    def generated(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Ids of a context that is continued (`tok_batch_encode`)."""
        ids, _ = self._lm.tok_batch_encode([self._lm.apply_chat_template(copy.deepcopy(list(messages)))])
        return [int(token) for token in ids[0]]
