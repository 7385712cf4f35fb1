"""A GGUF file, as llama.cpp and its kin keep models, → a Hugging Face folder that this platform can train.

transformers reads the file and unpacks its weights (extra `gguf`). What quantisation has cost stays lost: the folder
holds what the quantised file says, in bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import ModelCardData
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.utils import logging as transformers_logging

from sft_core.errors import ModelError, disk_advice
from sft_core.model.load import UNREADABLE, check_finite, first_line
from sft_core.stage import whole_folder

MAGIC = b"GGUF"
INSTALL = "pip install 'sft-platform[gguf]'"
DAMAGED = (*UNREADABLE, IndexError, OverflowError, UnicodeDecodeError)
"""What the package `gguf` raises on a file that ends too early or holds something else than its header says."""
WHOLE = frozenset(("F64", "F32", "F16", "BF16"))
"""Kinds of tensors that are not quantised."""
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
"""How Llama 3.1 and its kin scale rotary positions; a GGUF holds the outcome, one factor for each frequency."""
SAME = 1e-3
"""By how much, of their size, these factors may differ from the computed ones."""
PLAIN_SPLITS = ("default", "gpt-2")
"""Names in a GGUF of the way that GPT-2 cuts text, which is what transformers takes where it does not know a name."""


class Imported(NamedTuple):
    """What became of a GGUF file."""

    folder: Path
    architecture: str
    parameters: int
    quantised: tuple[str, ...]  # kinds of quantised tensors in the file, e.g. Q4_1; the commonest first
    unknown_split: str | None  # the way of cutting text that the file names and transformers does not know
    chat: bool  # there is a chat template

    def remarks(self) -> list[str]:
        """What a person should know before they train it."""
        told = []
        if self.quantised:
            told.append(f"its weights were quantised ({', '.join(self.quantised)}): what that has cost cannot be "
                        "undone; import a file in F16 or BF16 where there is one")
        if self.unknown_split:
            told.append(f"its tokenizer cuts text the way `{self.unknown_split}`, which transformers does not know "
                        "and takes for GPT-2's: long numbers and runs of spaces may become other tokens than in its "
                        "training")
        if not self.chat:
            told.append("it has no chat template: template.name chooses a built-in one")
        return told


def import_gguf(file: Path, folder: Path, of: str | None = None, licence: str | None = None) -> Imported:
    """Write the model of a GGUF file as a folder: weights in bfloat16, tokenizer with chat template, generation config.

    The folder appears whole or not at all.

    Args:
        of: hub id of the model that the file holds; with its licence it is kept in the folder's README.md, from which
            cards of what is trained on it have both.
        licence: as the hub names it.

    Raises:
        ModelError: no package `gguf`; the file is missing, no GGUF, of an old version, cut off or one part of several;
            transformers does not know its architecture or tokenizer; weights are missing or no numbers; the folder is
            there already or cannot be written.
    """
    file, folder = file.expanduser(), folder.expanduser()
    if folder.exists():
        raise ModelError(f"{folder} is there already; name another folder, or remove it first")
    header = _read(file)
    model, tokenizer = _load(file, header)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=_ends(header, tokenizer), pad_token_id=tokenizer.pad_token_id)
    with whole_folder(folder, _writing) as draft, _writing(folder):
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        if of or licence:
            head = ModelCardData(base_model=of, license=licence)
            (draft / "README.md").write_text(f"---\n{head.to_yaml()}\n---\n\n# {of or folder.name}\n\nMade of the "
                                             f"file {file.name} by `sft model import`.\n", encoding="utf-8")
    return Imported(folder, model.config.model_type, sum(p.numel() for p in model.parameters()), header.quantised,
                    _unknown_split(header), tokenizer.chat_template is not None)


class _Header(NamedTuple):
    """What a GGUF file says before its weights."""

    architecture: str
    quantised: tuple[str, ...]
    split: str | None  # how its tokenizer cuts text
    end_of_turn: int | None
    scaling: tuple[str, float]  # of rotary positions: kind and factor
    divisors: torch.Tensor | None  # [head / 2] of rotary frequencies


def _read(file: Path) -> _Header:
    """The header of a file whose tensors are all there."""
    try:
        from gguf import GGUFReader
        from gguf.gguf_reader import READER_SUPPORTED_VERSIONS
    except ImportError as error:
        raise ModelError(f"reading {file} needs the package gguf: {INSTALL}") from error
    try:
        with file.open("rb") as stream:
            magic, version = stream.read(len(MAGIC)), int.from_bytes(stream.read(4), "little")
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}; give the path of a .gguf file") from error
    if magic != MAGIC:
        raise ModelError(f"{file} is not a GGUF file: it begins with {magic!r}, not {MAGIC!r}. A folder with "
                         "safetensors needs no import: give it to model.path")
    if version not in READER_SUPPORTED_VERSIONS:
        raise ModelError(f"{file} is a GGUF file of version {version} (or of the other byte order); the "
                         f"package gguf reads {' and '.join(map(str, READER_SUPPORTED_VERSIONS))}. Convert the model "
                         "again with a newer llama.cpp, install a newer gguf, or take the model's safetensors")
    try:
        reader = GGUFReader(file)
        known = {name: field.contents() for name, field in reader.fields.items()
                 if not name.startswith("tokenizer.ggml.t")}  # tokens and their types
    except DAMAGED as error:
        raise ModelError(f"{file} is cut off, or damaged: it ends at {file.stat().st_size:,} bytes, before all that "
                         "its header tells of; fetch it again") from error
    if (parts := known.get("split.count", 1)) > 1:
        raise ModelError(f"{file} is one of {parts} parts; put them together first (llama-gguf-split --merge)")
    kinds = [tensor.tensor_type.name for tensor in reader.tensors]
    quantised = sorted(set(kinds) - WHOLE, key=lambda kind: (-kinds.count(kind), kind))
    architecture = known.get("general.architecture", "of no name")
    scaling = f"{architecture}.rope.scaling"
    divisors = [torch.tensor(tensor.data) for tensor in reader.tensors if tensor.name == "rope_freqs.weight"]
    return _Header(architecture, tuple(quantised), known.get("tokenizer.ggml.pre"),
                   known.get("tokenizer.ggml.eot_token_id"),
                   (known.get(f"{scaling}.type", "none"), known.get(f"{scaling}.factor", 1.0)),
                   divisors[0].float() if divisors else None)


def _load(file: Path, header: _Header) -> tuple[Any, Any]:
    """The model in bfloat16, and the tokenizer."""
    from transformers import GgufConfig
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    transformers_logging.disable_progress_bar()
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.bfloat16, output_loading_info=True,
            quantization_config=GgufConfig(dequantize=True), local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    except (*DAMAGED, RuntimeError) as error:
        raise ModelError(f"transformers cannot make a causal LM of {file} (architecture {header.architecture}): "
                         f"{first_line(error)}. It reads {', '.join(sorted(GGUF_SUPPORTED_ARCHITECTURES))}; take the "
                         "model's safetensors instead") from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"{file}: transformers finds no weights for {len(missing)} parameters of architecture "
                         f"{header.architecture} (first: {missing[0]}); they would start at random. Take the model's "
                         "safetensors instead")
    check_finite(model, file)
    _scale(model.config, file, header)
    return model, tokenizer


def _scale(config: Any, file: Path, header: _Header) -> None:
    """Give a config the scaling of rotary positions that its file tells of: transformers reads it for few architectures
    and leaves it out for the others.

    Raises:
        ModelError: it is of a kind that is not known here.
    """
    (kind, factor), divisors = header.scaling, header.divisors
    rope = dict(getattr(config, "rope_parameters", None) or {})
    if rope.get("rope_type", "default") != "default" or (kind == "none" and divisors is None):
        return
    if kind == "linear" and divisors is None:
        config.rope_parameters = rope | {"rope_type": "linear", "factor": factor}
        return
    if kind == "none" and divisors is not None:
        config.rope_parameters = rope | LLAMA3 | {"factor": float(divisors.max())}
        ours, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
        plain = rope["rope_theta"] ** -(torch.arange(len(ours)) / len(ours))
        if len(divisors) == len(ours) and torch.allclose(plain / ours, divisors, rtol=SAME):
            return
    raise ModelError(f"{file} scales its rotary positions ({'by factors of its own' if kind == 'none' else kind}), in "
                     "a way that cannot be read from it; take the model's safetensors instead")


def _ends(header: _Header, tokenizer: Any) -> int | list[int] | None:
    """The token that ends a text, and the one that ends a turn where that is another one."""
    ends = list(dict.fromkeys(e for e in (tokenizer.eos_token_id, header.end_of_turn) if e is not None))
    return ends if len(ends) > 1 else (ends or [None])[0]


def _unknown_split(header: _Header) -> str | None:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    return None if header.split in (None, *PLAIN_SPLITS, *GGUF_PRE_TOKENIZER_SPLITS) else header.split


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"cannot write the folder {folder}: {error}; {disk_advice(error)}, or name another folder"
                         ) from error
