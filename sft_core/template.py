"""Chat templates as spans of text, trained or not.

A template says where its assistant turns begin and end; nothing else in the code base decides that. Built-in ones
write the spans themselves, a model's own Jinja is cut into spans by rendering prefixes: what a model sees before it
answers, against what is there after the answer. Encoding and the shift live in `sft_core/render.py`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jinja2
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from sft_core.config.data import TemplateSection
from sft_core.conversation import Conversation, Origin, Turn
from sft_core.errors import TemplateError

TrainOn = Literal["all_assistant", "last_assistant"]

CHATML_START, CHATML_STOP = "<|im_start|>", "<|im_end|>"
CHATML_JINJA = r"""
{%- set rest = messages %}
{%- if tools %}
    {%- set first = messages[:1] | selectattr('role', 'equalto', 'system') | list %}
    {%- set system = first[0].content if first else '' %}
    {{- '<|im_start|>system\nTools: ' + (tools | tojson) + ('\n' + system if system else '') + '<|im_end|>\n' }}
    {%- set rest = messages[1:] if first else messages %}
{%- endif %}
{%- for message in rest %}
    {{- '<|im_start|>' + message.role + '\n' + (message.content or '') }}
    {%- for call in message.tool_calls or [] %}
        {%- set arguments = call.function.arguments %}
        {{- ('\n' if message.content or not loop.first else '') + '<tool_call>\n{"name": '
            + (call.function.name | tojson) + ', "arguments": '
            + (arguments if arguments is string else arguments | tojson) + '}\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
""".strip()

ALPACA_PREAMBLE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
ALPACA_NO_TOOLS = "the alpaca template has no place for tools"
ALPACA_JINJA = r"""
{%- if tools %}{{ raise_exception('NO_TOOLS') }}{% endif %}
{%- if messages and messages[0].role == 'system' %}{{- messages[0].content }}{% else %}{{- 'PREAMBLE' }}{% endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' or message.tool_calls %}{{ raise_exception('NO_TOOLS') }}{% endif %}
    {%- if message.role == 'user' %}
        {{- '\n\n### Instruction:\n' + message.content + '\n\n### Response:\n' }}
    {%- elif message.role == 'assistant' %}
        {{- message.content + eos_token }}
    {%- endif %}
{%- endfor %}
""".strip().replace("NO_TOOLS", ALPACA_NO_TOOLS).replace("PREAMBLE", ALPACA_PREAMBLE)


class Span(NamedTuple):
    """A piece of a rendered conversation; the pieces in order are the whole text."""

    text: str
    supervised: bool


class TemplateRefused(ValueError):
    """The template has no form for this one conversation; its row is rejected with this message."""


@dataclass(frozen=True)
class Template(ABC):
    """How conversations become text. `stop` ends every trained turn; `jinja` is saved into the model's tokenizer."""

    name: str
    stop: str
    jinja: str

    @abstractmethod
    def spans(self, conversation: Conversation, train_on: TrainOn = "all_assistant") -> list[Span]:
        """The conversation as text; supervised are the contents of trained assistant turns and the stop after each.

        Raises:
            TemplateRefused: the template cannot express this conversation.
            TemplateError: the template cannot be used for training at all.
        """

    @abstractmethod
    def prompt(self, turns: Sequence[Turn], tools: str | None = None) -> str:
        """The text that a model answers: the turns and the opening of an assistant turn.

        Raises:
            TemplateRefused: the template cannot express these turns.
        """


@dataclass(frozen=True)
class _BuiltIn(Template):
    bos: str  # written first where the tokenizer starts a text with it

    @abstractmethod
    def _walk(self, turns: Sequence[Turn], tools: str | None, trained: frozenset[int]) -> Iterator[Span]:
        """All turns, without the opening of a next one."""

    def spans(self, conversation: Conversation, train_on: TrainOn = "all_assistant") -> list[Span]:
        turns, tools, _ = conversation.turns, conversation.tools, conversation.origin
        return [Span(self.bos, False), *self._walk(turns, tools, trained_turns(turns, train_on))]


@dataclass(frozen=True)
class ChatML(_BuiltIn):
    """`<|im_start|>role\\ncontent<|im_end|>\\n`; the newline after an answer is not trained."""

    def _walk(self, turns: Sequence[Turn], tools: str | None, trained: frozenset[int]) -> Iterator[Span]:
        system = turns[0].content if turns and turns[0].role == "system" else ""
        if tools:
            listed = f"Tools: {_json(json.loads(tools))}" + (f"\n{system}" if system else "")
            yield Span(f"<|im_start|>system\n{listed}<|im_end|>\n", False)
        for at, turn in enumerate(turns):
            if tools and at == 0 and turn.role == "system":
                continue
            yield Span(f"<|im_start|>{turn.role}\n", False)
            yield Span(f"{_with_calls(turn)}<|im_end|>", at in trained)
            yield Span("\n", False)

    def prompt(self, turns: Sequence[Turn], tools: str | None = None) -> str:
        return self.bos + _text(self._walk(turns, tools, frozenset())) + "<|im_start|>assistant\n"


@dataclass(frozen=True)
class Alpaca(_BuiltIn):
    """Stanford Alpaca's headings, made for several turns; a system turn replaces the preamble. Stops on EOS."""

    def _walk(self, turns: Sequence[Turn], tools: str | None, trained: frozenset[int]) -> Iterator[Span]:
        if tools or any(turn.role == "tool" or turn.tool_calls for turn in turns):
            raise TemplateRefused(ALPACA_NO_TOOLS)
        yield Span(turns[0].content if turns and turns[0].role == "system" else ALPACA_PREAMBLE, False)
        for at, turn in enumerate(turns):
            if turn.role == "user":
                yield Span(f"\n\n### Instruction:\n{turn.content}\n\n### Response:\n", False)
            elif turn.role == "assistant":
                yield Span(turn.content + self.stop, at in trained)

    def prompt(self, turns: Sequence[Turn], tools: str | None = None) -> str:
        return self.bos + _text(self._walk(turns, tools, frozenset()))


@dataclass(frozen=True)
class ModelTemplate(Template):
    """A tokenizer's own Jinja. Spans come from rendering prefixes; `{% generation %}` marks must agree with them."""

    names: tuple[tuple[str, str], ...]  # bos_token, eos_token, … as the Jinja expects them

    @property
    def marked(self) -> bool:
        """The Jinja carries generation marks."""
        return "generation" in self.jinja and "endgeneration" in self.jinja

    def spans(self, conversation: Conversation, train_on: TrainOn = "all_assistant") -> list[Span]:
        turns = conversation.turns
        text, marks = self.render(turns, conversation.tools)
        if lost := next(_lost(turns, conversation.tools, text), None):
            raise TemplateRefused(f"the model's chat template drops or rewrites {lost}")
        trained = sorted(trained_turns(turns, train_on))
        ranges = [self._range(conversation, at, text) for at in trained]
        if self.marked:
            self._agree(ranges, marks if train_on == "all_assistant" else marks[-1:], text, conversation.origin)
        return list(_cut(text, ranges))

    def prompt(self, turns: Sequence[Turn], tools: str | None = None) -> str:
        return self.render(turns, tools, opening=True)[0]

    def render(self, turns: Sequence[Turn], tools: str | None, opening: bool = False) -> tuple[str, list[list[int]]]:
        """The text and the character ranges that the generation marks enclose.

        Raises:
            TemplateRefused: the Jinja raises on these turns.
        """
        try:
            texts, marks = render_jinja_template(
                [[_message(turn) for turn in turns]], tools=json.loads(tools) if tools else None,
                chat_template=self.jinja, return_assistant_tokens_mask=self.marked, add_generation_prompt=opening,
                **dict(self.names),
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise TemplateRefused(f"the model's chat template refuses these turns: {error}") from error
        return texts[0], [list(mark) for mark in marks[0]] if self.marked else []

    def _range(self, conversation: Conversation, at: int, text: str) -> tuple[int, int]:
        """Where the answer of turn `at` stands in the text: behind its prompt, up to its stop."""
        before = self.prompt(conversation.turns[:at], conversation.tools)
        after, _ = self.render(conversation.turns[: at + 1], conversation.tools)
        where = f"turn {at + 1} of {conversation.origin}"
        if not after.startswith(before):
            raise TemplateError(f"the model's chat template opens an answer otherwise than it writes one ({where}), so "
                                "training would not see what inference sees; set template.name: chatml or alpaca")
        end = after.find(self.stop, len(before)) + len(self.stop)
        if end < len(self.stop):
            raise TemplateError(f"the model's chat template ends {where} without its stop token {self.stop}; the model "
                                "would not learn to stop; set template.name: chatml or alpaca")
        if not text.startswith(after[:end]):
            raise TemplateError(f"the model's chat template rewrites {where} when later turns follow; set "
                                "template.train_on: last_assistant, or template.name: chatml or alpaca")
        return len(before), end

    def _agree(self, ranges: list[tuple[int, int]], marks: list[list[int]], text: str, origin: Origin) -> None:
        """Marks may run on behind the stop (a newline); otherwise both ways must find the same characters."""
        found = [(start, text.find(self.stop, start, end) + len(self.stop)) for start, end in marks]
        if found != ranges:
            raise TemplateError(f"the generation marks of the model's chat template and its rendering disagree at "
                                f"{origin}: marks {[text[a:b] for a, b in marks]}, rendering "
                                f"{[text[a:b] for a, b in ranges]}; set template.name: chatml or alpaca")


def trained_turns(turns: Sequence[Turn], train_on: TrainOn) -> frozenset[int]:
    """Indices of the assistant turns that are trained."""
    assistant = [at for at, turn in enumerate(turns) if turn.role == "assistant"]
    return frozenset(assistant if train_on == "all_assistant" else assistant[-1:])


def control_tokens(tokenizer: PreTrainedTokenizerBase, jinja: str) -> tuple[str, ...]:
    """Texts that must never come from data, longest first: special tokens, and added ones that the template writes.

    Added tokens of white space alone are text, whatever stands between the blocks of a Jinja.
    """
    literals = "\0".join(value for _, kind, value in jinja2.Environment().lex(jinja) if kind in ("data", "string"))
    added = tokenizer.added_tokens_decoder.values()
    special = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
    written = {token.content for token in added if token.content.strip() and token.content in literals}
    return tuple(sorted(special | written, key=lambda text: (-len(text), text)))


def starts_with_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """The tokenizer begins every plain text with BOS."""
    return tokenizer.bos_token_id is not None and tokenizer.encode("x")[:1] == [tokenizer.bos_token_id]


def choose(section: TemplateSection, tokenizer: PreTrainedTokenizerBase) -> Template:
    """The template that the section asks for, checked against the tokenizer.

    Raises:
        TemplateError: there is no chat template, no stop token, or the stop is not one token of this tokenizer.
    """
    name = section.name
    if name == "auto":
        name = "model" if tokenizer.chat_template else "chatml"
    if name == "model":
        return _own(tokenizer)
    bos = tokenizer.bos_token if starts_with_bos(tokenizer) else ""
    head = "{{- bos_token }}" if bos else ""
    if name == "alpaca":
        if tokenizer.eos_token is None:
            raise TemplateError("template alpaca stops on the EOS token, and this tokenizer has none; use chatml")
        _one_token(tokenizer, name, tokenizer.eos_token)
        return Alpaca(name, tokenizer.eos_token, head + ALPACA_JINJA, bos)
    for token in (CHATML_START, CHATML_STOP):
        _one_token(tokenizer, name, token)
    return ChatML(name, CHATML_STOP, head + CHATML_JINJA, bos)


def _own(tokenizer: PreTrainedTokenizerBase) -> Template:
    if not tokenizer.chat_template:
        raise TemplateError("template.name is model and this tokenizer has no chat template; set chatml or alpaca")
    jinja = tokenizer.get_chat_template()
    names = tuple((k, v) for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str))
    draft = ModelTemplate("model", "", jinja, names)
    question, answer = Turn("user", "Does it?"), Turn("assistant", "It does.")
    try:
        before, (after, _) = draft.prompt([question]), draft.render([question, answer], None)
    except TemplateRefused as error:
        raise TemplateError(f"{error} (one question, one answer); set template.name: chatml or alpaca") from error
    if not after.startswith(before):
        raise TemplateError(f"the model's chat template opens an answer with {before!r} and writes one as {after!r}; "
                            "set template.name: chatml or alpaca")
    rest = after[len(before):].partition(answer.content)[2]
    stops = [(rest.find(token), token) for token in control_tokens(tokenizer, jinja) if token in rest]
    if not stops:
        raise TemplateError(f"the model's chat template writes no stop token behind an answer: {after!r}; a "
                            "model trained on it would not stop; set template.name: chatml or alpaca")
    stop = min(stops)[1]
    _one_token(tokenizer, "model", stop)
    return ModelTemplate("model", stop, jinja, names)


def _one_token(tokenizer: PreTrainedTokenizerBase, name: str, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1 or text not in control_tokens(tokenizer, text):
        raise TemplateError(f"template {name} needs {text} as one added token and this tokenizer makes {len(ids)} of "
                            "it; add it to the tokenizer as a special token, or choose another template.name")


def _json(value: object) -> str:
    """JSON as the chat template engine's `tojson` writes it."""
    return json.dumps(value, ensure_ascii=False)


def _with_calls(turn: Turn) -> str:
    bodies = [f'{{"name": {_json(call.name)}, "arguments": {_json(json.loads(call.arguments))}}}'
              for call in turn.tool_calls]
    calls = [f"<tool_call>\n{body}\n</tool_call>" for body in bodies]
    return "\n".join([turn.content, *calls] if turn.content else calls)


def _text(spans: Iterator[Span]) -> str:
    return "".join(span.text for span in spans)


def _message(turn: Turn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.tool_calls:
        message["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": json.loads(call.arguments)}}
            for call in turn.tool_calls
        ]
    return message


def _lost(turns: Sequence[Turn], tools: str | None, text: str) -> Iterator[str]:
    """What the conversation says and its rendering does not. Some templates write tool results as JSON strings."""
    for number, turn in enumerate(turns, 1):
        content = turn.content.strip()
        if content not in text and not (turn.role == "tool" and _json(content)[1:-1] in text):
            yield f"turn {number} ({turn.role})"
        yield from (f"the call of {call.name} in turn {number}" for call in turn.tool_calls if call.name not in text)
    for tool in json.loads(tools) if tools else ():
        function = tool.get("function")
        name = str((function if isinstance(function, dict) else tool).get("name", ""))
        if name not in text:
            yield f"the tool {name}"


def _cut(text: str, ranges: list[tuple[int, int]]) -> Iterator[Span]:
    done = 0
    for start, end in ranges:
        yield Span(text[done:start], False)
        yield Span(text[start:end], True)
        done = end
    yield Span(text[done:], False)
