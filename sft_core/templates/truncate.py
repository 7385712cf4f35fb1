"""Conversations that fit: rendered with at most `data.max_tokens` tokens per example, or rejected. No answer is cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sft_core.config.data import DataSection
from sft_core.conversation import Conversation, Rejected, Turn, Why
from sft_core.templates.render import Example, Rendered, Renderer


class Fitted(NamedTuple):
    """What one conversation is trained as, every example within the limit."""

    examples: tuple[Example, ...]
    turns_dropped: int  # the oldest turns, left out because all together were too long
    escaped: bool = False  # it spells control tokens, which became plain text


class _Whole(NamedTuple):
    """The parts that a conversation can be put together from again."""

    conversation: Conversation
    system: tuple[Turn, ...]
    exchanges: list[tuple[Turn, ...]]  # each begins with a user turn

    def part(self, start: int, stop: int) -> Conversation:
        turns = [turn for exchange in self.exchanges[start:stop] for turn in exchange]
        return self.conversation._replace(turns=(*self.system, *turns))

    def turns(self, start: int, stop: int) -> int:
        return sum(map(len, self.exchanges[start:stop]))


def fit(conversations: Sequence[Conversation], renderer: Renderer, data: DataSection) -> Iterator[Fitted | Rejected]:
    """Render conversations within `data.max_tokens`, in their order, or say why not.

    Too long ones are rejected with the reason TOO_LONG unless `data.too_long` makes them shorter:
    `truncate_left_context` leaves out the oldest turns behind the system turn, up to the next user turn, until the rest
    fits; `split_turns` cuts in front of user turns into as few consecutive conversations as fit, each with the system
    turn. Where only the last answer is trained the parts before it would train nothing, so both do the same.

    Raises:
        TemplateError: the template cannot be used for training.
    """
    for one, found in zip(conversations, renderer.render_many(conversations), strict=True):
        yield _fitted(one, found, renderer, data)


def _fitted(conversation: Conversation, found: Rendered | Rejected, renderer: Renderer, data: DataSection
            ) -> Fitted | Rejected:
    if isinstance(found, Rejected):
        return found
    if _longest(found) <= data.max_tokens:
        return Fitted(found.examples, 0, found.escaped)
    too_long = Rejected(Why.TOO_LONG, f"{_longest(found)} tokens, {data.max_tokens} allowed", conversation.origin)
    if data.too_long == "split_turns" and renderer.section.train_on == "all_assistant":
        return _split(_parts_of(conversation), renderer, data.max_tokens)
    if data.too_long in ("truncate_left_context", "split_turns"):
        return _truncated(_parts_of(conversation), renderer, data.max_tokens, too_long)
    return too_long


def _truncated(whole: _Whole, renderer: Renderer, max_tokens: int, too_long: Rejected) -> Fitted | Rejected:
    last = len(whole.exchanges)
    for start in range(1, last):
        found = renderer.render(whole.part(start, last))
        if isinstance(found, Rejected):
            return found
        if _longest(found) <= max_tokens:
            return Fitted(found.examples, whole.turns(0, start), found.escaped)
        too_long = too_long._replace(detail=f"{_longest(found)} tokens, {max_tokens} allowed")
    return too_long


def _split(whole: _Whole, renderer: Renderer, max_tokens: int) -> Fitted | Rejected:
    examples: list[Example] = []
    dropped, escaped, start = 0, False, 0
    while start < len(whole.exchanges):
        stop, found = _longest_part(whole, start, renderer, max_tokens)
        if isinstance(found, Rendered):
            examples += found.examples
            escaped |= found.escaped
        elif found.why is Why.NO_TRAINED_TOKEN:  # calls of tools that are not trained, and nothing else
            dropped += whole.turns(start, stop)
        else:
            return found
        start = stop
    return Fitted(tuple(examples), dropped, escaped)


def _longest_part(whole: _Whole, start: int, renderer: Renderer, max_tokens: int) -> tuple[int, Rendered | Rejected]:
    """The most exchanges from `start` on that fit, as the index behind the last and what they are rendered as."""
    fits = renderer.render(whole.part(start, start + 1))
    if isinstance(fits, Rendered) and _longest(fits) > max_tokens:
        detail = f"one exchange alone has {_longest(fits)} tokens, {max_tokens} allowed"
        return start + 1, Rejected(Why.TOO_LONG, detail, whole.conversation.origin)
    low, high = start + 1, len(whole.exchanges)
    while low < high:
        middle = (low + high + 1) // 2
        found = renderer.render(whole.part(start, middle))
        if isinstance(found, Rendered) and _longest(found) > max_tokens:
            high = middle - 1
        else:
            low, fits = middle, found
    return low, fits


def _parts_of(conversation: Conversation) -> _Whole:
    turns = conversation.turns
    users = [at for at, turn in enumerate(turns) if turn.role == "user"]
    ends = [*users[1:], len(turns)]
    return _Whole(conversation, turns[: users[0]], [turns[a:b] for a, b in zip(users, ends, strict=True)])


def _longest(found: Rendered) -> int:
    return max(len(example.input_ids) for example in found.examples)
