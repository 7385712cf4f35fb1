"""Conversation → Example: template, mask and shift in one walk. The one shift of the code base is `_shifted` here.

Text from data can never become a control token: a conversation that spells one is rejected, and the control tokens of
every example are compared with those of the same conversation with harmless contents, so that a control token which
comes about in any other way (two halves meeting, a normaliser) is found too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from sft_core.config.data import DataSection
from sft_core.conversation import Conversation, Origin, Rejected, ToolCall, Turn, Why
from sft_core.errors import TemplateError
from sft_core.template import (
    Span,
    Template,
    TemplateRefused,
    TrainOn,
    control_tokens,
    starts_with_bos,
)

IGNORE = -100
"""Target of a position that is not trained."""

_MARK_START, _MARK_END = "\ue0f0", "\ue0f1"  # private use: around look-alikes of control tokens, only while rendering


class Example(NamedTuple):
    """Token ids with their targets, already shifted.

    `targets[i]` is the id that position i must predict: `input_ids[i + 1]` where that token is trained, else IGNORE.
    """

    input_ids: list[int]
    targets: list[int]
    origin: Origin


class Fitted(NamedTuple):
    """What one conversation is trained as, every example within the limit; how many turns were left out for it."""

    examples: tuple[Example, ...]
    turns_dropped: int


class Renderer:
    """One template with one tokenizer. Not for threads: it remembers the control tokens of every shape it has seen."""

    def __init__(self, template: Template, tokenizer: PreTrainedTokenizerBase,
                 train_on: TrainOn = "all_assistant") -> None:
        """Raises TemplateError when the template's stop is not one token."""
        self.template, self.tokenizer, self.train_on = template, tokenizer, train_on
        self._control = control_tokens(tokenizer, template.jinja)
        stop = self._encode(template.stop)
        if template.stop not in self._control or len(stop) != 1:
            raise TemplateError(f"the stop {template.stop!r} of template {template.name} is not one control token of "
                                "this tokenizer; add it as a special token, or choose another template.name")
        self.stop_id = stop[0]
        # Unknown characters become the unknown token; it controls nothing.
        self._control_ids = frozenset(tokenizer.convert_tokens_to_ids(list(self._control))) - {tokenizer.unk_token_id}
        self._spelled = re.compile("|".join(map(re.escape, self._control)))
        self._marked = re.compile(f"{_MARK_START}({self._spelled.pattern}){_MARK_END}")
        # SentencePiece-like tokenizers put a space before a text; an answer goes on in the middle of one.
        head = self._encode("\n")
        self._prefixes = self._encode("\nx")[len(head):] != self._encode("x")
        self._expected: dict[tuple[tuple[Turn, ...], str | None], list[int]] = {}

    def render(self, conversation: Conversation) -> Example | Rejected:
        """Ids and shifted targets; trained are the contents of assistant turns and the stop behind each.

        Raises:
            TemplateError: the template cannot be used for training.
        """
        if found := self._spelled_in(conversation.turns, conversation.tools):
            return Rejected(Why.CONTROL_TOKEN, f"the text spells the control token {found}", conversation.origin)
        try:
            ids, supervised = self._walk(conversation)
            expected = self._expected_control(conversation)
        except TemplateRefused as refused:
            return Rejected(Why.ROLE_ORDER, str(refused), conversation.origin)
        if self._control_of(ids) != expected:
            return Rejected(Why.CONTROL_TOKEN, "the text makes a control token together with the template or the "
                            "tokenizer's normaliser", conversation.origin)
        if not any(supervised[1:]):
            return Rejected(Why.NO_TRAINED_TOKEN, "no token of an assistant turn is trained", conversation.origin)
        return Example(ids, _shifted(ids, supervised), conversation.origin)

    def prompt(self, turns: Sequence[Turn], tools: str | None = None) -> list[int]:
        """Ids that the model continues. Look-alikes of control tokens are encoded as plain text.

        Raises:
            TemplateError: the template cannot express these turns.
        """
        def marked(text: str) -> str:
            return self._spelled.sub(f"{_MARK_START}\\g<0>{_MARK_END}", text)

        try:
            text = self.template.prompt([_with_texts(turn, marked) for turn in turns], tools and marked(tools))
            expected = self._control_of(self._encode(self.template.prompt(_neutral(turns), tools and marked(tools))))
        except TemplateRefused as refused:
            raise TemplateError(str(refused)) from refused
        ids = self._defused(text)
        if self._control_of(ids) != expected:
            raise TemplateError("a prompt makes a control token of its own together with the template; the turns "
                                f"begin {turns[0].content[:80]!r}")
        return ids

    def _walk(self, conversation: Conversation) -> tuple[list[int], list[bool]]:
        """The one walk: ids, and beside each whether it is trained. Neighbours of one kind are encoded together."""
        ids: list[int] = []
        supervised: list[bool] = []
        before = ""
        for trained, group in groupby(self.template.spans(conversation, self.train_on), key=_is_supervised):
            text = "".join(span.text for span in group)
            piece = self._continue(before, text)
            if trained and piece[-1:] != [self.stop_id]:
                raise TemplateError(f"a trained turn of {conversation.origin} does not end in the stop token "
                                    f"{self.template.stop}; the model would not learn to stop")
            ids += piece
            supervised += [trained] * len(piece)
            before = text or before
        return ids, supervised

    def _continue(self, before: str, text: str) -> list[int]:
        """Ids of a text that goes on behind another, without the space that the tokenizer gives to a beginning."""
        anchor = next((token for token in self._control if before.endswith(token)), "")
        if not anchor and before and self._prefixes:
            anchor = "\n"
        head = self._encode(anchor) if anchor else []
        whole = self._encode(anchor + text)
        return whole[len(head):] if whole[:len(head)] == head else self._encode(text)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def _defused(self, text: str) -> list[int]:
        """Ids of a rendered text in which look-alikes are marked; a look-alike is encoded in two harmless halves."""
        ids: list[int] = []
        before = ""
        for at, piece in enumerate(self._marked.split(text)):
            for part in (piece[:1], piece[1:]) if at % 2 else (piece,):
                ids += self._continue(before, part) if part else []
                before = part or before
        return ids

    def _control_of(self, ids: list[int]) -> list[int]:
        return [token for token in ids if token in self._control_ids]

    def _expected_control(self, conversation: Conversation) -> list[int]:
        """Control tokens that the template itself writes for a conversation of this shape."""
        turns = tuple(_neutral(conversation.turns))
        key = (turns, conversation.tools)
        if key not in self._expected:
            spans = self.template.spans(conversation._replace(turns=turns), self.train_on)
            self._expected[key] = self._control_of(self._encode("".join(span.text for span in spans)))
        return self._expected[key]

    def _spelled_in(self, turns: Sequence[Turn], tools: str | None) -> str | None:
        for text in _texts(turns, tools):
            if found := self._spelled.search(text):
                return found.group()
        return None


def render(conversation: Conversation, template: Template, tokenizer: PreTrainedTokenizerBase,
           train_on: TrainOn = "all_assistant") -> Example | Rejected:
    """`Renderer.render` for one conversation."""
    return Renderer(template, tokenizer, train_on).render(conversation)


def render_prompt(turns: Sequence[Turn], template: Template, tokenizer: PreTrainedTokenizerBase,
                  tools: str | None = None) -> list[int]:
    """`Renderer.prompt` for one list of turns; `tools` is JSON text."""
    return Renderer(template, tokenizer).prompt(turns, tools)


def render_text(text: str, tokenizer: PreTrainedTokenizerBase, origin: Origin) -> Example:
    """Plain text for language modelling: all tokens trained, EOS at the end, BOS first where the tokenizer has it so.

    Raises:
        TemplateError: the tokenizer has no EOS token.
    """
    if tokenizer.eos_token_id is None:
        raise TemplateError("replay text must end in an EOS token and this tokenizer has none; give it an eos_token")
    ids = list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True, verbose=False))
    bos = [int(tokenizer.bos_token_id)] if starts_with_bos(tokenizer) else []
    ids = [*bos, *ids, int(tokenizer.eos_token_id)]
    return Example(ids, _shifted(ids, [True] * len(ids)), origin)


def pieces(example: Example, max_tokens: int) -> Iterator[Example]:
    """A long text in consecutive pieces of at most `max_tokens`; no token and no target is lost."""
    for start in range(0, len(example.input_ids), max_tokens):
        part = slice(start, start + max_tokens)
        if any(target != IGNORE for target in example.targets[part]):
            yield Example(example.input_ids[part], example.targets[part], example.origin)


def fit(conversation: Conversation, renderer: Renderer, data: DataSection) -> Fitted | Rejected:
    """Render a conversation so that it has at most `data.max_tokens` tokens, or say why not. No answer is ever cut.

    With `truncate_left_context` the oldest turns behind the system turn go, up to the next user turn, until it fits.
    """
    example = renderer.render(conversation)
    if isinstance(example, Rejected) or len(example.input_ids) <= data.max_tokens:
        return example if isinstance(example, Rejected) else Fitted((example,), 0)
    tokens = len(example.input_ids)
    if data.too_long == "truncate_left_context":
        for shorter in _shortened(conversation):
            example = renderer.render(shorter)
            if isinstance(example, Rejected):
                return example
            tokens = len(example.input_ids)
            if tokens <= data.max_tokens:
                return Fitted((example,), len(conversation.turns) - len(shorter.turns))
    return Rejected(Why.TOO_LONG, f"{tokens} tokens, {data.max_tokens} allowed", conversation.origin)


def _shortened(conversation: Conversation) -> Iterator[Conversation]:
    turns = conversation.turns
    system = turns[:1] if turns[0].role == "system" else ()
    users = [at for at, turn in enumerate(turns) if turn.role == "user"]
    for start in users[1:]:
        yield conversation._replace(turns=(*system, *turns[start:]))


def _shifted(ids: list[int], supervised: list[bool]) -> list[int]:
    """Position i predicts token i + 1, where that one is trained."""
    return [token if trained else IGNORE for token, trained in zip(ids[1:], supervised[1:], strict=True)] + [IGNORE]


def _is_supervised(span: Span) -> bool:
    return span.supervised


def _texts(turns: Sequence[Turn], tools: str | None) -> Iterator[str]:
    """Every text that comes from data."""
    for turn in turns:
        yield turn.content
        for call in turn.tool_calls:
            yield from (call.name, call.arguments)
    if tools:
        yield tools


def _with_texts(turn: Turn, change: Callable[[str], str]) -> Turn:
    calls = tuple(ToolCall(change(call.name), change(call.arguments)) for call in turn.tool_calls)
    return Turn(turn.role, change(turn.content), calls)


def _neutral(turns: Sequence[Turn]) -> list[Turn]:
    """The same shape with harmless contents."""
    call = ToolCall("x", "{}")
    return [
        Turn(turn.role, "x" if turn.content.strip() else turn.content, (call,) * len(turn.tool_calls)) for turn in turns
    ]
