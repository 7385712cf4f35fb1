"""Sentence embeddings from a local folder, for distances between rows (`data.select.embed`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from sft_core.data.selection import Embeddings
from sft_core.errors import DataError
from sft_core.progress import progress
from sft_core.stopping import check

LONGEST = 256
"""Tokens of a text that are read: encoders of sentences were trained on no more."""
TOKENS = 4096
"""Of a batch, padding included."""


def embed(texts: Sequence[str], folder: Path) -> Embeddings:
    """Mean of the last hidden states of every text's tokens, in length 1 (Reimers and Gurevych 2019).

    Args:
        folder: of an encoder and its tokenizer, as transformers saves them; nothing is fetched.

    Raises:
        DataError: it is no such folder.
    """
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    except (OSError, ValueError) as error:
        raise DataError(f"data.select.embed {folder} is no folder of a sentence encoder "
                        f"({str(error).splitlines()[0]}); give one that holds config.json, weights and tokenizer"
                        ) from error
    ids = [found or [0] for found in tokenizer(list(texts), truncation=True, max_length=LONGEST)["input_ids"]]
    vectors = np.zeros((len(ids), model.config.hidden_size), dtype=np.float32)
    line = sorted(range(len(ids)), key=lambda at: len(ids[at]))
    with progress("embedding", len(ids), "texts") as bar, torch.inference_mode():
        while line:
            check()
            batch = line[-max(1, TOKENS // len(ids[line[-1]])):]
            del line[-len(batch):]
            given = tokenizer.pad({"input_ids": [ids[at] for at in batch]}, return_tensors="pt")
            states, real = model(**given).last_hidden_state, given["attention_mask"].unsqueeze(-1)
            means = torch.nn.functional.normalize((states * real).sum(1) / real.sum(1), dim=-1)
            vectors[batch] = means.float().numpy()
            bar.advance(len(batch))
    return Embeddings(vectors)
