"""Conversation → Example: template, mask and shift in one walk. The one shift of the code base is `_shifted` here.

Text from data can never become a control token: a conversation that spells one is rejected or its look-alikes are
encoded as plain text, and the control tokens of every example are compared with those of the same conversation with
harmless contents, so that one which comes about in any other way (two halves meeting, a normaliser) is found too.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

from pydantic import JsonValue
from transformers import PreTrainedTokenizerBase

from sft_core.config.data import TemplateSection
from sft_core.conversation import Conversation, Origin, Rejected, ToolCall, Turn, Why
from sft_core.errors import TemplateError
from sft_core.templates.choose import control_tokens, starts_with_bos
from sft_core.templates.encode import Encoder, Piece, any_of, mark
from sft_core.templates.messages import Form, TemplateRefused, ThoughtClosed, VariablesRefused
from sft_core.templates.template import OTHERS, Span, Template, trained_turns
from sft_core.templates.thoughts import ANY_TAG, SWITCH, thinks, thought_of, without
from sft_core.templates.variants import Variants

IGNORE = -100
"""Target of a position that is not trained."""

_REMEMBERED_SHAPES = 4096
_TOGETHER = 500  # conversations whose texts are encoded in one call
# Turns with harmless words, tools, variables, what is trained.
_Shape = tuple[tuple[Turn, ...], str | None, str | None, frozenset[int]]


class Example(NamedTuple):
    """Token ids with their targets, already shifted.

    `targets[i]` is the id that position i must predict: `input_ids[i + 1]` where that token is trained, else IGNORE.
    """

    input_ids: Sequence[int]
    targets: Sequence[int]
    origin: Origin


class Rendered(NamedTuple):
    """What one conversation is trained as: one example, or one per trained turn where the template rewrites turns."""

    examples: tuple[Example, ...]
    escaped: bool  # it spells control tokens, which became plain text


class _Draft(NamedTuple):
    """A conversation as texts, with the control tokens that each must have."""

    conversation: Conversation
    texts: list[list[Span]]
    expected: list[list[int]]
    escaped: bool


class Renderer:
    """One template with one tokenizer. Not for threads: it remembers the control tokens of every shape it has seen."""

    def __init__(self, template: Template, tokenizer: PreTrainedTokenizerBase, section: TemplateSection) -> None:
        """`section` says what is trained, and what becomes of look-alikes of control tokens.

        Raises:
            TemplateError: a stop of the template is not one control token of this tokenizer.
        """
        self.template, self.section = template, section
        self._variants = Variants(template, tokenizer, section)
        control = control_tokens(tokenizer, template.jinja)
        self._encoder = Encoder(tokenizer, control)
        stops = [self._encoder.text(stop) for stop in template.stops]
        if any(len(ids) != 1 for ids in stops) or not set(template.stops) <= set(control):
            raise TemplateError(f"a stop of template {template.name} is not one control token of this tokenizer: "
                                f"{', '.join(template.stops)}; add it as a special token, or choose another "
                                "template.name")
        self.stop_ids = tuple(ids[0] for ids in stops)
        # Unknown characters become the unknown token; it controls nothing.
        self._control_ids = frozenset(tokenizer.convert_tokens_to_ids(list(control))) - {tokenizer.unk_token_id}
        self._spelled = any_of(control)
        # What a model thinks is its own text, tags and all.
        self._spelled_in_answer = any_of([token for token in control if not ANY_TAG.fullmatch(token)])
        self._expected: dict[_Shape, list[list[int]] | TemplateRefused] = {}

    def template_of(self, conversation: Conversation) -> Template:
        """The template with the variables of this row, tried out with them as it would be by `template.kwargs`.

        Raises:
            TemplateRefused: it cannot be used with them.
        """
        return self._variants.of(conversation.variables)

    def render(self, conversation: Conversation) -> Rendered | Rejected:
        """Ids and shifted targets; trained are the contents of assistant turns and the stop behind each.

        Raises:
            TemplateError: the template cannot be used for training.
        """
        draft = self._draft(conversation)
        return self._finished(draft, iter(self._encoder.pieces(_pieces([draft]))))

    def render_many(self, conversations: Iterable[Conversation]) -> Iterator[Rendered | Rejected]:
        """The same for many, in their order. While some are encoded, in another thread, the next become texts.

        Raises:
            TemplateError: the template cannot be used for training.
        """
        with ThreadPoolExecutor(max_workers=1) as pool, _old_objects_left_alone():
            rest = iter(conversations)
            before: list[_Draft | Rejected] = []
            encoded: Future[list[list[int]]] | None = None
            while True:
                drafts = [self._draft(conversation) for conversation in islice(rest, _TOGETHER)]
                following = pool.submit(self._encoder.pieces, _pieces(drafts)) if drafts else None
                ids = iter(encoded.result() if encoded else ())
                yield from (self._finished(draft, ids) for draft in before)
                if not following:
                    return
                before, encoded = drafts, following

    def prompt(self, turns: Sequence[Turn], tools: str | None = None) -> list[int]:
        """Ids that the model continues. Look-alikes of control tokens are encoded as plain text.

        Raises:
            TemplateError: the template cannot express these turns.
        """
        marked_tools = tools and mark(tools, self._spelled)
        try:
            text = self.template.prompt([self._defused(turn) for turn in turns], marked_tools)
            harmless = self.template.prompt(_neutral(turns), marked_tools)
        except TemplateRefused as refused:
            raise TemplateError(str(refused)) from refused
        ids, expected = self._encoder.pieces([Piece("", text), Piece("", harmless)])
        if self._control_of(ids) != self._control_of(expected):
            raise TemplateError("a prompt makes a control token of its own together with the template; the turns "
                                f"begin {turns[0].content[:80]!r}")
        return ids

    def _draft(self, conversation: Conversation) -> _Draft | Rejected:
        try:
            return self._drafted(conversation, self.template_of(conversation))
        except TemplateRefused as refused:
            if isinstance(refused, ThoughtClosed):
                way = self._variants.way_to_think(conversation)
            elif isinstance(refused, VariablesRefused):
                way = "correct the row, or set ignore_columns: [chat_template_kwargs]"
            else:
                way = OTHERS
            return Rejected(Why.TEMPLATE_REFUSED, f"{refused}; {way}", conversation.origin)

    def _drafted(self, conversation: Conversation, template: Template) -> _Draft | Rejected:
        opened = template.form.opened
        thinking = [at for at, turn in enumerate(conversation.turns, 1) if thinks(turn, opened)]
        if thinking and self.section.thinking == "error":
            return Rejected(Why.THOUGHT, f"turn {thinking[0]} (assistant) has a thought and template.thinking is error",
                            conversation.origin)
        turns = [self._thought_over(turn, template.form) for turn in conversation.turns]
        if None in turns:
            return Rejected(Why.THOUGHT, f"turn {turns.index(None) + 1} (assistant) has the tag of a thought where no "
                            "thought begins, so that it cannot be said what template.thinking: drop is to drop",
                            conversation.origin)
        conversation = conversation._replace(turns=tuple(turn for turn in turns if turn))
        found = self._spelled_by(conversation)
        if self.section.control_text == "reject" and found:
            return Rejected(Why.CONTROL_TOKEN, f"the text spells the control token {found}", conversation.origin)
        if found:
            conversation = conversation._replace(turns=tuple(self._defused(turn) for turn in conversation.turns),
                                                 tools=conversation.tools and mark(conversation.tools, self._spelled),
                                                 variables=conversation.variables and mark(conversation.variables,
                                                                                           self._spelled))
            template = self.template_of(conversation)
        section = self.section
        trained = trained_turns(conversation.turns, section.train_on, section.train_tool_calls)
        if not trained:
            return Rejected(Why.NO_TRAINED_TOKEN, "no token of an assistant turn is trained", conversation.origin)
        texts = template.texts(conversation, trained)
        expected = self._expected_control(conversation, trained, template)
        if len(texts) != len(expected):
            return Rejected(Why.TEMPLATE_REFUSED, "the chat template treats these contents otherwise than plain words",
                            conversation.origin)
        return _Draft(conversation, texts, expected, bool(found))

    def _finished(self, draft: _Draft | Rejected, pieces: Iterator[list[int]]) -> Rendered | Rejected:
        """The one walk: ids, and beside each its target before the shift."""
        if isinstance(draft, Rejected):
            return draft
        examples, forged = [], False
        origin = draft.conversation.origin
        for text, expected in zip(draft.texts, draft.expected, strict=True):
            ids: list[int] = []
            trained: list[int] = []
            for span in text:
                piece = next(pieces) if span.text else []
                if span.supervised and piece[-1] not in self.stop_ids:
                    raise TemplateError(f"a trained turn of {origin} does not end in a stop token "
                                        f"({', '.join(self.template.stops)}); the model would not learn to stop")
                ids += piece
                trained += piece if span.supervised else [IGNORE] * len(piece)
            forged |= self._control_of(ids) != expected
            examples.append(Example(ids, _shifted(trained), origin))
        if forged:
            return Rejected(Why.CONTROL_TOKEN, "the text makes a control token together with the template or the "
                            "tokenizer's normaliser", origin)
        return Rendered(tuple(examples), draft.escaped)

    def _control_of(self, ids: list[int]) -> list[int]:
        return [token for token in ids if token in self._control_ids]

    def _expected_control(self, conversation: Conversation, trained: frozenset[int], template: Template
                          ) -> list[list[int]]:
        """Control tokens that the template itself writes for a conversation of this shape, for each of its texts.

        Raises:
            TemplateRefused: the template has no form for this shape.
        """
        turns = tuple(_neutral(conversation.turns))
        key: _Shape = (turns, conversation.tools, conversation.variables, trained)
        if key not in self._expected:
            if len(self._expected) == _REMEMBERED_SHAPES:
                self._expected.clear()
            try:
                texts = template.texts(conversation._replace(turns=turns), trained)
                found = self._encoder.pieces([Piece("", "".join(span.text for span in text)) for text in texts])
                self._expected[key] = [self._control_of(ids) for ids in found]
            except TemplateRefused as refused:
                self._expected[key] = refused
        known = self._expected[key]
        if isinstance(known, TemplateRefused):
            raise known
        return known

    def _thought_over(self, turn: Turn, form: Form) -> Turn | None:
        """Without its thoughts where they are to be dropped, or without an empty one, which is the template's to write.
        None where it cannot be told what is a thought."""
        opened = form.opened
        if turn.role != "assistant":
            return turn
        if self.section.thinking == "drop":
            content = without(turn.content, opened)
            return None if content is None else turn._replace(content=content)
        thought = thought_of(turn.content, opened)
        knows = form.tags or form.thoughts != "inline"
        if thought is None or thought.thinking.strip() or not knows:
            return turn
        return turn._replace(content=thought.answer.lstrip())

    def _spelled_by(self, conversation: Conversation) -> str | None:
        """The first control token that the data spells."""
        for turn in conversation.turns:
            pattern = self._spelled_in_answer if turn.role == "assistant" else self._spelled
            if found := pattern.search(turn.content):
                return found.group()
        others = [text for turn in conversation.turns for call in turn.tool_calls for text in call]
        if found := self._spelled.search("\0".join([*others, conversation.tools or "", conversation.variables or ""])):
            return found.group()
        return None

    def _defused(self, turn: Turn) -> Turn:
        pattern = self._spelled_in_answer if turn.role == "assistant" else self._spelled
        calls = tuple(ToolCall(mark(call.name, self._spelled), mark(call.arguments, self._spelled))
                      for call in turn.tool_calls)
        return turn._replace(content=mark(turn.content, pattern), tool_calls=calls)


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
    return Example(ids, _shifted(ids), origin)


def pieces(example: Example, max_tokens: int) -> Iterator[Example]:
    """A long text in consecutive pieces of at most `max_tokens`; no token and no target is lost."""
    for start in range(0, len(example.input_ids), max_tokens):
        part = slice(start, start + max_tokens)
        if any(target != IGNORE for target in example.targets[part]):
            yield Example(example.input_ids[part], example.targets[part], example.origin)


@contextmanager
def _old_objects_left_alone() -> Iterator[None]:
    """Keep the garbage collector from walking through all loaded modules whenever some thousand lists were made.

    That was a fifth of the time of rendering.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _shifted(trained: list[int]) -> list[int]:
    """Position i predicts token i + 1, where that one is trained."""
    return [*trained[1:], IGNORE]


def _pieces(drafts: Iterable[_Draft | Rejected]) -> list[Piece]:
    """The spans that hold something, each with what stands before it in its text."""
    made = []
    for text in (text for draft in drafts if isinstance(draft, _Draft) for text in draft.texts):
        before = ""
        for span in text:
            if span.text:
                made.append(Piece(before, span.text))
                before = span.text
    return made


def _neutral(turns: Sequence[Turn]) -> list[Turn]:
    """The same shape with harmless words, a different one in every turn; the tags of thoughts stay."""
    return [Turn(turn.role, _words(turn, at),
                 tuple(ToolCall("f", json.dumps(_harmless(json.loads(call.arguments)))) for call in turn.tool_calls))
            for at, turn in enumerate(turns)]


def _harmless(value: JsonValue) -> JsonValue:
    """The same structure: templates may write control tokens around every argument, by its type."""
    if isinstance(value, dict):
        return {f"k{at}": _harmless(item) for at, item in enumerate(value.values())}
    if isinstance(value, list):
        return [_harmless(item) for item in value]
    return "w" if isinstance(value, str) else type(value)(1) if value else value


def _words(turn: Turn, at: int) -> str:
    if turn.role != "assistant" or not ANY_TAG.search(turn.content):
        switches = "".join(f" {one}" for one in SWITCH.findall(turn.content))  # a template may obey them
        return f"w{at}w{switches}" if turn.content.strip() else turn.content
    # What a template makes of a thought depends on the line breaks around it: they stay.
    parts = ANY_TAG.split(turn.content)
    words = [part.replace(part.strip(), f"w{at}n{number}w", 1) if part.strip() else part
             for number, part in enumerate(parts)]
    return "".join(tag + word for tag, word in zip(["", *ANY_TAG.findall(turn.content)], words, strict=True))
