"""A randomly initialised Llama with a BPE tokenizer trained on given text: real shapes without a download.

    python -m bench.random_llama FOLDER TEXT_OR_JSON... [--vocab 8192 --hidden 384 --layers 8]

Scores of such a model are near chance; it is for trying the whole way on real rows and tasks.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

EOS = "<|endoftext|>"


def build(folder: Path, texts: Sequence[Path], vocab: int = 8192, hidden: int = 384, layers: int = 8,
          seed: int = 0) -> int:
    """Write model and tokenizer into `folder` and return the number of parameters.

    Args:
        texts: files whose text the byte-level BPE is trained on.
        vocab: tokens asked for. hidden: width. layers: depth; with the defaults about 22 M parameters. seed: of the
            weights.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[EOS, "<|pad|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train([str(path) for path in texts], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, bos_token=EOS, pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=hidden, intermediate_size=hidden * 8 // 3 // 32 * 32,
        num_hidden_layers=layers, num_attention_heads=hidden // 64, max_position_embeddings=4096,
        tie_word_embeddings=False, eos_token_id=fast.eos_token_id, bos_token_id=fast.bos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=8)
    known = parser.parse_args()
    count = build(known.folder, known.texts, known.vocab, known.hidden, known.layers)
    print(f"{known.folder}: {count / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
