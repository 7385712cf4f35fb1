"""What text reaches of a model, found before the first step: towers for pictures and sound, cross-attention without an
encoder and heads for other tasks have no part in the loss, and can neither be trained nor be expected to move."""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from sft_core.model.attention import decoder_of, head_of, own_attention
from sft_core.model.held import held_low
from sft_core.model.proof import PROOF_TOKENS, attending, evaluating, some_ids


def unreached(model: Any) -> frozenset[str]:
    """Names of the parameters that have no part in what the LM head says of token ids.

    A parameter has a part where it, or its like in another layer or expert (the same name but for numbers, in modules
    of the same classes), stands in the graph of a forward pass; of what takes no gradient, as weights in 4 bits, where
    its module was called. So an expert that no token was routed to is not taken for one that none can be routed to. No
    gradient is computed.
    """
    called: set[nn.Module] = set()
    hooks = [m.register_forward_hook(lambda m, *_: called.add(m)) for m in model.modules()]
    try:
        # Under autocast, which holds no second copy of what is held in less for a backward pass.
        low = torch.autocast(model.device.type, torch.bfloat16) if held_low(model) else nullcontext()
        with torch.enable_grad(), evaluating(model), attending(model, own_attention(model)), low:
            ids = some_ids(model, PROOF_TOKENS)[None]
            logits = head_of(model)(decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state)
    finally:
        for hook in hooks:
            hook.remove()
    part = _leaves(logits) | {id(p) for m in called for p in m.parameters(recurse=False) if not p.requires_grad}
    kinds = _kinds(model)
    reached = {kinds[name] for name, p in model.named_parameters(remove_duplicate=False) if id(p) in part}
    return frozenset(name for name, _ in model.named_parameters() if kinds[name] not in reached)


def freeze(model: Any, names: frozenset[str]) -> None:
    """Keep these parameters as they are."""
    for name, parameter in model.named_parameters():
        if name in names:
            parameter.requires_grad_(False)


def alike(model: nn.Module, names: frozenset[str]) -> frozenset[str]:
    """The parameters of these kinds: what `unreached` finds in a model of a few layers, in the model of all."""
    kinds = _kinds(model)
    found = {kinds[name] for name in names}
    return frozenset(name for name, _ in model.named_parameters() if kinds[name] in found)


def in_sentence(kept: int) -> str:
    """What is said of so many parameters."""
    return f"{kept:,} parameters outside the text decoder, which text does not reach, are kept as they are"


def idle_modules(model: nn.Module, names: frozenset[str]) -> frozenset[str]:
    """Names of the modules that have parameters, all of them among these."""
    idle = {id(p) for name, p in model.named_parameters() if name in names}
    found = {name: [id(p) in idle for p in module.parameters()] for name, module in model.named_modules()}
    return frozenset(name for name, each in found.items() if each and all(each))


def _leaves(out: Tensor) -> set[int]:
    """Identities of the parameters in the graph of this."""
    todo: list[Any] = [out.grad_fn]
    seen: set[Any] = set()
    leaves: set[int] = set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            leaves.add(id(leaf))
        todo += [inner for inner, _ in node.next_functions]
    return leaves


def _kinds(model: nn.Module) -> dict[str, str]:
    """Name of every parameter → its name without numbers, and the classes of the modules around it."""
    classes = {name: type(module).__name__ for name, module in model.named_modules()}

    def around(name: str) -> str:
        parts = name.split(".")
        return " ".join(classes[".".join(parts[:length])] for length in range(len(parts)))

    return {name: f"{around(name)} {re.sub(r'[0-9]+', '#', name)}"
            for name, _ in model.named_parameters(remove_duplicate=False)}
