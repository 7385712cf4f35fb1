"""The byte-level BPE tokenizer of the tiny world.

A name or a number never carries the space before it: the space is a token of its own, so `Dazu` is the same token in
`in Dazu`, in `"Dazu"` and at the start of a line, and copying a name into JSON is copying one token. Small words do
carry it.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END, PAD, TURN_START, TURN_END = "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"
"""Document end (also bos and eos), padding, and the two reserved for chat templates, untrained in the base."""

PIECES = r"</?tool_call>|[A-Z][a-z]+|\d+| ?[a-z]+(?:_[a-z]+)*|\n+|[^\sA-Za-z\d]+(?: [^\sA-Za-z\d]+)*| |[A-Z]|\s"
"""Splits before BPE; signs with a space between them, as `": "` in JSON, are one piece."""

MAX_VOCABULARY = 1536


def train_tokenizer(texts: Iterable[str], context_tokens: int) -> PreTrainedTokenizerFast:
    """Learn the tokenizer from `texts`; special tokens get the ids 0 to 3. It has no chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY,
        min_frequency=2,
        special_tokens=[END, PAD, TURN_START, TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[TURN_START, TURN_END],
        model_max_length=context_tokens,
        clean_up_tokenization_spaces=False,
    )
