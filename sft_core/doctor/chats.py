"""Real conversations of the data against the chat template as a server would run it.

Here nothing of `sft_core/templates` decides: prompts, answers and generation marks come from
`tokenizer.apply_chat_template`, and what was rendered for training must be the same tokens with the same mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sft_core.config.data import DataSection, ModelSection, TemplateSection
from sft_core.conversation import Conversation, Rejected
from sft_core.data.intake import Taken, take_in
from sft_core.doctor.finding import Seen, verdict
from sft_core.errors import DataError
from sft_core.model.load import load_tokenizer, locate
from sft_core.stage import read_json
from sft_core.templates.choose import choose
from sft_core.templates.messages import messages_of, tools_of
from sft_core.templates.render import IGNORE, Example, Renderer
from sft_core.templates.template import trained_turns
from sft_core.templates.thoughts import begun_in, tells, thought_of, visible

CHATS = 64
"""Conversations that are looked at, evenly from all that were read."""
LONGEST = 20_000
"""Characters of a conversation that is looked at; a longer one only takes longer."""


class Chat(NamedTuple):
    """A conversation and what it is trained as."""

    conversation: Conversation
    trained: tuple[int, ...]  # its trained turns
    examples: tuple[Example, ...]

    def answers(self) -> Iterator[tuple[int, Example, tuple[int, int]]]:
        """Trained turns with the example that holds each, and where in its ids.

        Raises:
            DataError: there are more or fewer trained runs of tokens than trained turns.
        """
        found = [(example, run) for example in self.examples for run in runs_of(example)]
        if len(found) != len(self.trained):
            raise DataError(f"{self.conversation.origin} has {len(self.trained)} trained turns and {len(found)} "
                            "trained runs of tokens; look at it with `sft data show`")
        for at, (example, run) in zip(self.trained, found, strict=True):
            yield at, example, run


@dataclass(frozen=True)
class Sample:
    """Conversations of the data, rendered."""

    tokenizer: Any
    renderer: Renderer
    chats: tuple[Chat, ...]
    refused: int  # conversations that are not trained
    escaped: int  # conversations that spell control tokens: a server would read them otherwise

    def served(self, chat: Chat, turns: int, opening: bool = False) -> str:
        """The first `turns` turns as text, as a server writes them; with `opening`, asking for an answer."""
        return str(self._applied(chat, turns, tokenize=False, add_generation_prompt=opening))

    def served_ids(self, chat: Chat, turns: int, opening: bool = False) -> list[int]:
        """The same as ids."""
        return list(self._applied(chat, turns, return_dict=False, add_generation_prompt=opening))

    def marked(self, chat: Chat, turns: int) -> list[str]:
        """What the generation marks of the first `turns` turns enclose."""
        conversation, pieces, end = chat.conversation, list[str](), -1
        template = self.renderer.template_of(conversation)
        text, marks = template.render(conversation.turns[:turns], conversation.tools, marked=True)
        for start, stop in marks:  # a turn can have several, one behind the other
            pieces.append((pieces.pop() if start == end else "") + text[start:stop])
            end = stop
        return pieces

    def text(self, ids: Sequence[int]) -> str:
        """Ids as text, control tokens too."""
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def _applied(self, chat: Chat, turns: int, **how: Any) -> Any:
        conversation = chat.conversation
        template = self.renderer.template_of(conversation)
        return self.tokenizer.apply_chat_template(
            messages_of(conversation.turns, template.form)[:turns], tools=tools_of(conversation.tools, template.form),
            chat_template=template.jinja, **how)


@dataclass
class _Tally:
    good: int = 0
    other: int = 0  # where this comparison has nothing to say
    wrong: list[str] = field(default_factory=list)

    def add(self, wrong: str | None) -> None:
        if wrong is None:
            self.good += 1
        else:
            self.wrong.append(wrong)


def sample_of(data: DataSection, template: TemplateSection, model: ModelSection, mirror: Path | None,
              scratch: Path) -> Sample:
    """Read the sources, and render some conversations of each kind.

    Raises:
        DataError: nothing can be read, or nothing of it is trained. TemplateError: the template cannot be used.
        ModelError: there is no tokenizer.
    """
    tokenizer = load_tokenizer(model, locate(model, mirror))
    renderer = Renderer(choose(template, tokenizer), tokenizer, template)
    found = (one for source in data.sources
             for one in take_in(source, Taken(), scratch=scratch, mirror=mirror, repair=data.repair))
    read = [one for one in found if not isinstance(one, Rejected)]
    short = [c for c in read if sum(len(turn.content) for turn in c.turns) <= LONGEST]
    chats, refused, escaped = [], [], 0
    for conversation in _evenly(short, CHATS):
        rendered = renderer.render(conversation)
        if isinstance(rendered, Rejected):
            refused.append(rendered)
        elif rendered.escaped:
            escaped += 1
        else:
            trained = trained_turns(conversation.turns, template.train_on, template.train_tool_calls)
            chats.append(Chat(conversation, tuple(sorted(trained)), rendered.examples))
    if not chats:
        why = f"; the first: {refused[0].origin}: {refused[0].why}: {refused[0].detail}" if refused else ""
        raise DataError(f"none of {len(refused) + escaped} conversations looked at is trained as it stands{why}")
    return Sample(tokenizer, renderer, tuple(chats), len(refused), escaped)


def masks(sample: Sample) -> Seen:
    """Trained is the answer and its stop, by rendering prefixes and by generation marks where the template has them."""
    prefixes, marks = _Tally(), _Tally()
    for chat in sample.chats:
        for at, example, run in chat.answers():
            _by_prefix(sample, chat, at, example.input_ids[slice(*run)], prefixes)
            if sample.renderer.template.marked:
                _by_marks(sample, chat, at, example.input_ids[slice(*run)], marks)
    wrong = [*prefixes.wrong, *marks.wrong]
    told = (f"{len(sample.chats)} conversations, {prefixes.good + prefixes.other} trained turns: answer + stop in "
            f"{prefixes.good} by prefixes")
    told += f", {prefixes.other} with a thought that the template leaves out" if prefixes.other else ""
    told += (f"; {marks.good} within the generation marks" if sample.renderer.template.marked
             else "; the template has no generation marks")
    told += f"; {sample.refused} conversations are not trained" if sample.refused else ""
    return verdict(not wrong, f"{len(wrong)} wrong, first: {wrong[0]}" if wrong else told)


def parity(sample: Sample) -> Seen:
    """The ids of an example are those of `apply_chat_template`, and so are those of the prompt before its answer."""
    wholes, prompts = _Tally(), _Tally()
    for chat in sample.chats:
        apart = len(chat.examples) > 1
        for at, example, run in chat.answers():
            if apart or at == chat.trained[0]:
                _same(sample, example.input_ids[: run[0]], sample.served_ids(chat, at, opening=True), prompts,
                      f"{chat.conversation.origin}: the prompt of turn {at + 1}")
                # A thought that the template leaves out of a written turn is trained all the same.
                if _as_written(sample, chat, at):
                    turns = at + 1 if apart else len(chat.conversation.turns)
                    _same(sample, example.input_ids, sample.served_ids(chat, turns), wholes, str(example.origin))
    wrong = [*prompts.wrong, *wholes.wrong]
    told = (f"{prompts.good} prompts and {wholes.good} conversations have the ids that a server sends"
            + (f"; {prompts.other + wholes.other} have the same text, with a token cut at the border of a turn"
               if prompts.other + wholes.other else "")
            + (f"; {sample.escaped} that spell control tokens were left out" if sample.escaped else ""))
    return verdict(not wrong, f"{len(wrong)} differ, first: {wrong[0]}" if wrong else told)


def stops(sample: Sample, saved: Path | None) -> Seen:
    """Every trained turn ends in a trained stop, and generation ends there.

    Args:
        saved: a model folder as training writes it, or None where there is none to look at.
    """
    trained, wrong = set(), []
    turns = 0
    for chat in sample.chats:
        for at, example, run in chat.answers():
            last = example.input_ids[run[1] - 1]
            turns += 1
            trained.add(last)
            if last not in sample.renderer.stop_ids:
                wrong.append(f"turn {at + 1} of {chat.conversation.origin} ends in {sample.text([last])!r}")
    names = ", ".join(sample.text([token]) for token in sorted(trained))
    if wrong:
        return verdict(False, f"{len(wrong)} of {turns} trained turns do not end in a stop; first: {wrong[0]}")
    if saved is None:
        return verdict(True, f"{turns} trained turns end in {names}; no model was saved whose generation config could "
                             "be looked at")
    ends = read_json(saved / "generation_config.json")["eos_token_id"]
    ends = {ends} if isinstance(ends, int) else set(ends)
    lacking = ", ".join(sample.text([token]) for token in sorted(trained - ends))
    return verdict(not lacking, f"{turns} trained turns end in {names}; generation "
                   + (f"does not stop on {lacking}" if lacking else f"stops on {sorted(ends)}"))


def runs_of(example: Example) -> list[tuple[int, int]]:
    """Where in the ids the trained runs lie, as (first, behind last).

    Raises:
        DataError: a target is not the token that follows.
    """
    runs: list[tuple[int, int]] = []
    for at, target in enumerate(example.targets):
        if target == IGNORE:
            continue
        if at + 1 >= len(example.input_ids) or example.input_ids[at + 1] != target:
            raise DataError(f"{example.origin}: the target at position {at} is not the token that follows")
        runs.append((runs.pop()[0] if runs and runs[-1][1] == at + 1 else at + 1, at + 2))
    return runs


def _as_written(sample: Sample, chat: Chat, at: int) -> bool:
    """The template writes the answer behind its prompt with the thought that it has, and ends one that is begun."""
    prompt, written = sample.served(chat, at, opening=True), sample.served(chat, at + 1)
    turn, behind, begun = chat.conversation.turns[at], written.removeprefix(prompt), begun_in(prompt)
    thought = thought_of(turn.content, sample.renderer.template_of(chat.conversation).form.opened)
    ended = not begun or (begun[1] in behind and begun[0] not in behind)
    return written.startswith(prompt) and ended and (not thought or tells(behind, thought, turn))


def _by_prefix(sample: Sample, chat: Chat, at: int, ids: Sequence[int], tally: _Tally) -> None:
    """What is written behind the prompt, up to the first stop. Compared as text without white space: ids of a text
    depend on what stands before it."""
    prompt, written = sample.served(chat, at, opening=True), sample.served(chat, at + 1)
    said, where = _squeezed(sample.text(ids)), f"turn {at + 1} of {chat.conversation.origin}"
    behind = written[len(prompt):]
    ends = [behind.find(stop) + len(stop) for stop in sample.renderer.template.stops if stop in behind]
    if not _as_written(sample, chat, at):
        opened = sample.renderer.template_of(chat.conversation).form.opened
        answer = visible(chat.conversation.turns[at].content, opened)
        inside = _squeezed(_normal(sample, answer)) in said
        tally.other += inside
        if not inside:
            tally.wrong.append(f"{where} trains {said!r}, which lacks its answer {answer!r}")
        return
    expected = _squeezed(_normal(sample, behind[: min(ends, default=0)]))
    tally.add(None if expected and said == expected else f"{where} trains {said!r}; its answer and stop are "
                                                         f"{expected!r}")


def _by_marks(sample: Sample, chat: Chat, at: int, ids: Sequence[int], tally: _Tally) -> None:
    """The same is enclosed by a generation mark; what a template writes before the first word of an answer may be in
    the mark or outside."""
    turn, said = chat.conversation.turns[at], _squeezed(sample.text(ids))
    if not _as_written(sample, chat, at):
        tally.other += 1
        return
    opened = sample.renderer.template.form.opened
    told = (visible(turn.content, opened), *(call.name for call in turn.tool_calls))
    words = [_squeezed(_normal(sample, text)) for text in told]
    pieces = [_squeezed(_normal(sample, piece)) for piece in sample.marked(chat, at + 1)]
    found = any(said in piece or (said.endswith(piece) and all(word in piece for word in words)) for piece in pieces)
    tally.add(None if found else f"turn {at + 1} of {chat.conversation.origin} trains {said!r}; the generation marks "
                                 f"enclose {pieces[-1:]}")


def _same(sample: Sample, ids: Sequence[int], served: Sequence[int], tally: _Tally, what: str) -> None:
    if list(ids) == list(served):
        tally.good += 1
    elif sample.text(ids) == sample.text(served):
        tally.other += 1
    else:
        at = next((n for n, pair in enumerate(zip(ids, served, strict=False)) if pair[0] != pair[1]),
                  min(len(ids), len(served)))
        tally.wrong.append(f"{what}: from token {at} on {sample.text(ids[at : at + 12])!r}, a server sends "
                           f"{sample.text(served[at : at + 12])!r}")


def _normal(sample: Sample, text: str) -> str:
    """The text as its tokens hold it: some tokenizers change letters or know not all of them."""
    return sample.text(sample.tokenizer.encode(text, add_special_tokens=False))


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _evenly(rows: Sequence[Conversation], most: int) -> list[Conversation]:
    number = min(most, len(rows))
    return [rows[at * len(rows) // number] for at in range(number)]
