"""Adapters around a base model. peft takes seconds to import, which runs without adapters do without."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sft_core.config.train import LoraSection
from sft_core.errors import ModelError
from sft_core.model.held import AsFloat32
from sft_core.model.load import first_line

if TYPE_CHECKING:
    from peft import PeftModel


def apply_lora(model: Any, section: LoraSection, seed: int, grown: Sequence[str] = (),
               idle: Collection[str] = ()) -> PeftModel:
    """Wrap the model with adapters whose start depends on `seed` alone; the base is frozen.

    `grown` names modules that are trained in full because they have new rows (`new_token_modules`), `idle` those that
    text does not reach and that get no adapters.

    Embedding and head of a model that ties them stay tied: either of them in `modules_to_save` trains both.

    Raises:
        ModelError: a target or a module to save does not exist or is idle, or adapters would lie on tied weights.
    """
    from peft import LoraConfig, get_peft_model

    _check_modules(model, section)
    _check_idle(model, section, idle)
    targets = section.target_modules if isinstance(section.target_modules, str) else list(section.target_modules)
    in_full = list(dict.fromkeys((*section.modules_to_save, *grown)))
    tied = _tied_names(model)
    ties = any(name.split(".")[-1] in tied for name in in_full)
    if ties:  # peft ties what goes by a name that it knows, and of all names it is the head's that is the usual one
        in_full = list(dict.fromkeys((*in_full, *tied)))
    config = LoraConfig(
        r=section.rank, lora_alpha=section.alpha, lora_dropout=section.dropout, target_modules=targets, bias="none",
        modules_to_save=in_full or None, task_type="CAUSAL_LM", use_rslora=section.rslora, use_dora=section.dora,
        ensure_weight_tying=ties, exclude_modules=sorted(idle) or None)
    try:
        # peft makes adapters, and copies of modules to save, in the dtype of what they lie on: read as float32.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), AsFloat32():
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)  # peft 0.21 asks for it
            torch.manual_seed(seed)
            wrapped = get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        raise ModelError(f"train.lora does not fit {type(model).__name__}: {first_line(error)}") from error
    _check_ties(wrapped, tied)
    return wrapped


def adapters_of(model: nn.Module) -> list[Any]:
    """The modules that peft has put around others: adapters, and copies of modules that are trained in full."""
    if "peft" not in sys.modules:  # nobody can have wrapped anything
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    return [m for m in model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)]


def new_token_modules(model: Any) -> tuple[str, ...]:
    """Names of the embedding and, where it is not the same weights, the head: what new tokens need to be trained."""
    wanted = {id(model.get_input_embeddings())}
    if not getattr(model.config, "tie_word_embeddings", False):
        wanted.add(id(model.get_output_embeddings()))
    return tuple(name.split(".")[-1] for name, module in model.named_modules() if id(module) in wanted)


def _tied_names(model: Any) -> tuple[str, ...]:
    """Last names of the embedding and the head where they are the same weights, nothing where they are not."""
    both = model.get_input_embeddings(), model.get_output_embeddings()
    if both[0].weight is not both[1].weight:
        return ()
    return tuple(name.split(".")[-1] for name, module in model.named_modules() if module in both)


def _check_ties(wrapped: Any, tied: Sequence[str]) -> None:
    """One weight cannot take two updates: of the lookup, and of the product with its transpose."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    both = wrapped.get_input_embeddings(), wrapped.get_output_embeddings()
    if tied and (any(isinstance(m, BaseTunerLayer) for m in both) or both[0].weight is not both[1].weight):
        raise ModelError(
            f"train.lora touches one of {' and '.join(tied)} of {type(wrapped.get_base_model()).__name__}, which are "
            "the same weights (tied): adapters on them could not be merged. Take them out of train.lora.target_modules "
            f"and, to train them, name them in train.lora.modules_to_save: [{tied[0]}]")


def _check_modules(model: nn.Module, section: LoraSection) -> None:
    names = {name.split(".")[-1] for name, _ in model.named_modules()}
    full = {name for name, _ in model.named_modules()}
    asked = set(section.modules_to_save)
    if not isinstance(section.target_modules, str):
        asked |= set(section.target_modules)
    if unknown := sorted(a for a in asked if a not in names and not any(f.endswith(a) for f in full)):
        kinds = sorted({n.split(".")[-1] for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Embedding)})
        raise ModelError(f"train.lora names {unknown}, which {type(model).__name__} does not have; it has {kinds}")


def _check_idle(model: nn.Module, section: LoraSection, idle: Collection[str]) -> None:
    """Raises ModelError for a name that only modules have that text does not reach, or a module to save has."""
    names = [name for name, _ in model.named_modules()]

    def only_idle(asked: Sequence[str]) -> Iterator[str]:
        for one in asked:
            meant = [name for name in names if f".{name}".endswith(f".{one}")]
            if meant and all(name in idle for name in meant):
                yield one

    targets = () if isinstance(section.target_modules, str) else section.target_modules
    for field, asked in (("target_modules", targets), ("modules_to_save", section.modules_to_save)):
        if wrong := list(only_idle(asked)):
            kinds = sorted({name.split(".")[-1] for name, module in model.named_modules()
                            if isinstance(module, nn.Linear) and name not in idle})
            raise ModelError(f"train.lora.{field} names {wrong}, which text does not reach in {type(model).__name__}: "
                             "they would never get a gradient. Take them out; text reaches "
                             f"{kinds}, and target_modules: all-linear takes what it reaches")
