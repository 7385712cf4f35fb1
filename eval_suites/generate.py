"""Greedy answers to chat items, through the chat template as a server would apply it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jinja2
import torch

from eval_suites.items import ChatItem
from sft_core.progress import progress


class ChatForm(Protocol):
    """What is needed of a template: its Jinja and its stop. `sft_core.templates.template.Template` is one."""

    @property
    def jinja(self) -> str:
        """The chat template."""

    @property
    def stop(self) -> str:
        """Text that ends an assistant turn."""


class Answer(NamedTuple):
    """What the model said, and whether it stopped by itself. `text` is None where it could not be asked."""

    text: str | None
    stopped: bool
    why: str = ""


class Decoding(NamedTuple):
    """How to answer, greedily. `label` names the progress bar."""

    label: str
    batch_size: int
    max_new_tokens: int


class _Prompt(NamedTuple):
    at: int  # place of the item
    ids: list[int]


def stop_ids(model: Any, tokenizer: Any, stop: str) -> list[int]:
    """Every id that ends a generation: those of the generation config, EOS, and the template's stop if it is one."""
    configured = model.generation_config.eos_token_id
    found = set(configured if isinstance(configured, list) else [configured])
    found.add(tokenizer.eos_token_id)
    ids = tokenizer.encode(stop, add_special_tokens=False) if stop else []
    if len(ids) == 1:
        found.add(ids[0])
    return sorted(i for i in found if i is not None)


def prompt_ids(tokenizer: Any, item: ChatItem, jinja: str) -> list[int]:
    """Token ids of an item's messages and the opening of the assistant turn.

    Raises:
        jinja2.TemplateError: the template refuses these messages.
    """
    text = tokenizer.apply_chat_template(item.messages, tools=item.parsed_tools(), chat_template=jinja, tokenize=False,
                                         add_generation_prompt=True)
    return list(tokenizer.encode(text, add_special_tokens=False))


def answer_all(model: Any, tokenizer: Any, items: Sequence[ChatItem], form: ChatForm,
               decoding: Decoding) -> list[Answer]:
    """Answers in the order of the items. The model's generation config holds the stop ids and no sampling.

    Batches go from long to short prompts, padded on the left behind an attention mask. An item that the template
    refuses, or that leaves no room in the model's window, is not asked.
    """
    answers: dict[int, Answer] = {}
    prompts = []
    window = getattr(model.config, "max_position_embeddings", None) or 1 << 30
    for index, item in enumerate(items):
        try:
            ids = prompt_ids(tokenizer, item, form.jinja)
        except jinja2.TemplateError as error:
            answers[index] = Answer(None, False, f"the chat template refuses it: {error}")
            continue
        if len(ids) < window:
            prompts.append(_Prompt(index, ids))
        else:
            answers[index] = Answer(None, False, f"{len(ids)} tokens do not fit the model's window of {window}")
    prompts.sort(key=lambda p: (-len(p.ids), p.at))
    with progress(decoding.label, len(prompts), "answers") as bar:
        for start in range(0, len(prompts), decoding.batch_size):
            batch = prompts[start:start + decoding.batch_size]
            room = min(decoding.max_new_tokens, window - len(batch[0].ids))
            said = _answer_batch(model, tokenizer, [p.ids for p in batch], form.stop, room)
            answers.update(zip((p.at for p in batch), said, strict=True))
            bar.advance(len(batch))
    return [answers[index] for index in range(len(items))]


@torch.inference_mode()
def _answer_batch(model: Any, tokenizer: Any, prompts: list[list[int]], stop: str, max_new_tokens: int) -> list[Answer]:
    width = max(len(ids) for ids in prompts)
    pad = model.generation_config.pad_token_id
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    found = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False)
    ends = set(model.generation_config.eos_token_id)
    return [_answer(tokenizer, row, ends, stop) for row in found[:, width:].tolist()]


def _answer(tokenizer: Any, ids: list[int], ends: set[int], stop: str) -> Answer:
    """The text up to the stop. Other special tokens stay visible: they are part of what the model said."""
    length = next((at for at, token in enumerate(ids) if token in ends), len(ids))
    text = tokenizer.decode(ids[:length], skip_special_tokens=False)
    if stop and stop in text:  # a stop that is several tokens here, so no id could end the generation
        return Answer(text.partition(stop)[0], True)
    return Answer(text, length < len(ids))
