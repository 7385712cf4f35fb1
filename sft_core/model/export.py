"""A stored model → a folder for others: in another dtype, in shards, whole or as its adapter, and compared with it.

What is written is read back as anybody would and must say what the stored model says: the Kullback–Leibler divergence
of its next-token distributions, in nats per token, over rows of random tokens.
"""

from __future__ import annotations

import gc
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import GenerationConfig

from sft_core.config.data import ModelSection
from sft_core.errors import DiskError, ModelError, disk_advice
from sft_core.model.folder import held_dtype, stored_whole
from sft_core.model.load import UNREADABLE, first_line, load_model, locate
from sft_core.model.where import files_of, read_object, weight_files
from sft_core.stage import whole_folder

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
GENERATION, INDEX, CARD = "generation_config.json", "model.safetensors.index.json", "README.md"
APART = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Largest divergence in nats per token, by the dtype that was rounded to. Rounding to bfloat16 costs about a tenth of
this; a weight that is missing or lies in another's place costs a hundred times as much."""
ROWS, TOKENS = 2, 48
"""Of what the models are compared on."""


class Exported(NamedTuple):
    """What was written, and how far from the stored model it is."""

    folder: Path
    dtype: str
    bytes: int
    divergence: float  # nats per token


def export_model(section: ModelSection, mirror: Path | None, out: Path, dtype: torch.dtype | None, shard: str,
                 texts: Mapping[str, str]) -> Exported:
    """Write a model as a folder that plain transformers and vLLM load, which appears whole or not at all.

    Args:
        section: the stored model.
        out: a folder that is not there yet, or is empty.
        dtype: None: as it is stored. Weights that lie in float32 beside others in less stay so.
        shard: most of one file of weights, `5GB` for example.
        texts: files of text that go with it, by name: the card `README.md`, for one.

    Raises:
        ModelError: the model cannot be loaded, has weights beyond float16, or says something else when it is read back.
        DiskError: the folder cannot be written.
    """
    folder = locate(section, mirror)
    stored = held_dtype(folder)
    target = dtype or stored
    here = section.model_copy(update={"device": "cpu", "attention": "auto"})
    wide = torch.float32 if stored_whole(folder) else torch.promote_types(stored, target)
    loaded = load_model(here, mirror=mirror, dtype=wide)
    asked = _asked(loaded.model)
    wanted = _said(loaded.model, asked)
    with whole_folder(out, _writing) as draft:
        _cast(loaded.model, target, loaded.whole, out)
        with _writing(out):
            _write(loaded.model, folder, draft, shard)
            _beside(draft, texts)
        del loaded
        gc.collect()  # a model is a circle of references
        read = load_model(here.model_copy(update={"path": str(draft), "revision": None}), mirror=None, dtype=wide)
        divergence = _checked(wanted, _said(read.model, asked), torch.float32 if target == wide else target, out)
        size = sum(file.stat().st_size for file in draft.iterdir())
    return Exported(out, str(target).removeprefix("torch."), size, divergence)


def export_adapter(adapter: Path, base: ModelSection, mirror: Path | None, merged: Path, out: Path,
                   texts: Mapping[str, str]) -> Exported:
    """Write an adapter as a folder that peft loads on its base, which appears whole or not at all.

    Args:
        adapter: as training left it.
        base: what it was trained on; it is loaded whole, also where training held it in 4 bits.
        merged: the model folder that it was merged into, with which base and adapter are compared.
        out: a folder that is not there yet, or is empty.
        texts: as for `export_model`; its own config has the name of its base there.

    Raises:
        ModelError: adapter, base or merged model cannot be loaded, or they do not say the same.
        DiskError: the folder cannot be written.
    """
    plain = ModelSection(path=str(merged), device="cpu", trust_remote_code=base.trust_remote_code)
    whole = load_model(plain, mirror=None)
    asked, rows = _asked(whole.model), whole.model.get_input_embeddings().weight.shape[0]
    wanted, rounded = _said(whole.model, asked), held_dtype(merged)
    del whole
    gc.collect()
    with whole_folder(out, _writing) as draft:
        with _writing(out):
            for file in files_of(adapter):
                shutil.copyfile(file, draft / file.name)
            _beside(draft, texts)
        model = load_model(base.model_copy(update={"device": "cpu", "attention": "auto"}), mirror=mirror).model
        if model.get_input_embeddings().weight.shape[0] != rows:  # tokens that the template added
            model.resize_token_embeddings(rows, mean_resizing=False)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)  # peft 0.21 asks for it
                model = PeftModel.from_pretrained(model, str(draft))
        except (*UNREADABLE, RuntimeError, SafetensorError) as error:
            raise ModelError(f"the adapter in {adapter} cannot be loaded on {base.path}: {first_line(error)}; give the "
                             "run's command again, which makes it anew where its stage was removed") from error
        divergence = _checked(wanted, _said(model.eval(), asked), rounded, out)
        size = sum(file.stat().st_size for file in draft.iterdir())
        dtype = next(iter(load_file(draft / ADAPTER_WEIGHTS).values())).dtype
    return Exported(out, str(dtype).removeprefix("torch."), size, divergence)


def adapter_config(adapter: Path, base: str) -> str:
    """The config of an adapter with this name of its base: its own may be a folder of the machine that it was trained
    on.

    Raises:
        ModelError: it is no adapter.
    """
    return json.dumps(read_object(adapter / ADAPTER_CONFIG) | {"base_model_name_or_path": base}, indent=2) + "\n"


def _beside(draft: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        (draft / name).write_text(text, encoding="utf-8")


def _asked(model: Any) -> Tensor:
    """[rows, tokens] always the same random tokens of a model's vocabulary."""
    config = model.config.get_text_config()
    known = getattr(config, "max_position_embeddings", None) or TOKENS
    generator = torch.Generator().manual_seed(0)
    return torch.randint(config.vocab_size, (ROWS, min(TOKENS, known) if known > 0 else TOKENS), generator=generator)


@torch.inference_mode()
def _said(model: Any, asked: Tensor) -> Tensor:
    """[rows, tokens, vocabulary] log-probabilities of the next token, in float32."""
    found: Tensor = model.eval()(input_ids=asked, use_cache=False).logits.float().log_softmax(dim=-1)
    return found


def _checked(wanted: Tensor, found: Tensor, rounded: torch.dtype, out: Path) -> float:
    """The divergence, nats per token. Raises ModelError where it is more than rounding explains."""
    if wanted.shape != found.shape:
        raise ModelError(f"{out} was not written: read back, the model has a vocabulary of {found.shape[-1]}, and not "
                         f"of {wanted.shape[-1]}; that is a bug of the platform")
    divergence = float((wanted.exp() * (wanted - found)).sum(-1).mean())
    if not abs(divergence) <= APART.get(rounded, APART[torch.float32]):
        raise ModelError(f"{out} was not written: read back, its next-token distributions are {divergence:.2g} nats "
                         f"from those of the stored model, and {APART.get(rounded, 0):g} are allowed in "
                         f"{str(rounded).removeprefix('torch.')}; export it in the dtype that it is stored in "
                         "(--dtype auto)")
    return max(divergence, 0.0)


@torch.no_grad()
def _cast(model: Any, dtype: torch.dtype, whole: frozenset[str], out: Path) -> None:
    """Give a model its weights in another dtype, in place. Buffers, and weights that lie whole beside others, stay."""
    beyond = []
    for name, parameter in model.named_parameters():
        if name in whole or not parameter.is_floating_point():
            continue
        parameter.data = parameter.to(dtype)
        if not parameter.isfinite().all():
            beyond.append(name)
    if beyond:
        raise ModelError(f"{out} was not written: {len(beyond)} tensors hold numbers beyond {torch.finfo(dtype).max:g} "
                         f"(first: {beyond[0]}), the largest of {str(dtype).removeprefix('torch.')}; take --dtype "
                         "bfloat16 or float32")


def _write(model: Any, folder: Path, draft: Path, shard: str) -> None:
    """Weights and config as transformers writes them; all else that makes the model is copied, byte by byte."""
    model.generation_config = GenerationConfig()  # a stored one may hold what saving refuses, and is copied
    model.save_pretrained(draft, max_shard_size=shard)
    (draft / GENERATION).unlink(missing_ok=True)
    weights = {file.name for file in weight_files(folder)}
    for file in files_of(folder):
        if file.name not in {*weights, INDEX, "config.json"}:
            shutil.copyfile(file, draft / file.name)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise DiskError(f"cannot write the folder {folder}: {error}; {disk_advice(error)}, or name another folder"
                        ) from error
