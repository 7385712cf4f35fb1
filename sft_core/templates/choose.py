"""The template that the configuration asks for, tried out on a tokenizer before any row is read.

What a template does is found by asking it: how it ends an answer, in which form it takes tool calls, whether its
generation marks leave the other roles alone. Built-in templates go through the same trial as a model's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import jinja2
from transformers import AddedToken, PreTrainedTokenizerBase

from sft_core.config.data import TemplateSection
from sft_core.conversation import Conversation, Origin, ToolCall, Turn
from sft_core.errors import TemplateError
from sft_core.templates.given import variables_of, with_date, with_defaults
from sft_core.templates.messages import CALL_IDS, Form, TemplateRefused, messages_of
from sft_core.templates.template import OTHERS, Template
from sft_core.templates.thoughts import ANY_TAG, EMPTY, TAGS, closes_thought, opened_in

NEEDS: dict[str, tuple[str, ...]] = {
    "alpaca": (),
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "mistral": ("[INST]", "[/INST]"),
    "zephyr": ("<|system|>", "<|user|>", "<|assistant|>"),
}
"""Tokens of the built-in templates; a tokenizer that lacks them gets them. Those without a stop here stop on EOS."""

_QUESTION, _ANSWER = "Qmarked9question", "Amarked9answer"
_NAME, _VALUE = "fmarked9name", "vmarked9value"
_TURNS = (Turn("user", _QUESTION), Turn("assistant", _ANSWER))
_CALL = Turn("assistant", "", (ToolCall(_NAME, f'{{"key": "{_VALUE}"}}'),))
_AS_DATA = re.compile(r"['\"]thinking['\"] *:")  # blocks printed as they are
_TRIAL = Origin("trial", "trial conversation", 1)


class NoStop(TemplateError):
    """The template writes nothing behind an answer that a model could stop on. It can be asked through all the same."""


class _Ends(NamedTuple):
    """What a tokenizer could stop on."""

    control: re.Pattern[str]
    special: frozenset[str]
    eos: str | None


def choose(section: TemplateSection, tokenizer: PreTrainedTokenizerBase) -> Template:
    """The template that the section asks for, checked against the tokenizer.

    Tokens that a built-in template or `section.new_tokens` needs are added to the tokenizer, in place; `Template.added`
    names them.

    Raises:
        TemplateError: there is no chat template, it raises on a question and an answer, it writes no stop token (or
            another than `section.stop`), it does not read a variable of `section.kwargs`, or its generation marks are
            on other roles too.
    """
    name: str = section.name
    if section.path:
        name = "file"
    elif name == "auto":
        name = "model" if tokenizer.chat_template else "chatml"
    jinja = _jinja(name, section.path, tokenizer)
    _refuse_unread(section.kwargs, jinja)
    jinja = with_date(with_defaults(jinja, section.kwargs), section.date)
    added = add_tokens(tokenizer, (*NEEDS.get(name, ()), *section.new_tokens))
    names = tuple((k, v) for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str))
    template = _tried(Template(name, jinja, names, stop="", added=added), tokenizer, section.stop)
    _refuse_marks_on_others(template)
    return template


def add_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> tuple[str, ...]:
    """Give the tokenizer the special tokens that it lacks, in this order, in place; says which these were.

    The same tokens added to the same tokenizer get the same ids.

    Raises:
        TemplateError: a token is empty.
    """
    if not all(token.strip() for token in tokens):
        raise TemplateError("template.new_tokens holds a token of white space alone; take it out")
    lacking = tuple(token for token in dict.fromkeys(tokens) if not _is_control(tokenizer, token))
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in lacking], special_tokens=True)
    return lacking


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


def _is_control(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    """The text is one token of its own already."""
    return (tokenizer.encode(token, add_special_tokens=False) == [tokenizer.convert_tokens_to_ids(token)]
            and token in control_tokens(tokenizer, token))


def _jinja(name: str, path: str | None, tokenizer: PreTrainedTokenizerBase) -> str:
    if path is not None:
        try:
            return Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TemplateError(f"template.path: {path} cannot be read as a text file ({error})") from error
    return _own_jinja(tokenizer) if name == "model" else _built_in_jinja(name, tokenizer)


def _refuse_unread(given: Mapping[str, object], jinja: str) -> None:
    """Raises TemplateError when a variable is given that the Jinja does not read."""
    try:
        read = variables_of(jinja)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"the chat template is no Jinja: {error}; {OTHERS}") from error
    if unread := sorted(set(given) - read):
        raise TemplateError(f"template.kwargs: the chat template reads no {', '.join(unread)}; "
                            + (f"it reads {', '.join(sorted(read))}" if read else "it reads no variable"))


def _own_jinja(tokenizer: PreTrainedTokenizerBase) -> str:
    if not tokenizer.chat_template:
        raise TemplateError(f"template.name is model and this tokenizer has no chat template; {OTHERS}")
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise TemplateError(f"this tokenizer has several chat templates and none is the default ({error}); {OTHERS}"
                            ) from error


def _built_in_jinja(name: str, tokenizer: PreTrainedTokenizerBase) -> str:
    jinja = (Path(__file__).parent / f"{name}.jinja").read_text(encoding="utf-8")
    if "eos_token" in jinja and tokenizer.eos_token is None:
        raise TemplateError(f"template {name} stops on the EOS token, and this tokenizer has none; set template.name: "
                            "chatml")
    return ("{{- bos_token }}" if starts_with_bos(tokenizer) else "") + jinja


def _tried(draft: Template, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> Template:
    """The template with its stops and its form of tool calls, tried on small conversations."""
    control = control_tokens(tokenizer, draft.jinja)
    added = tokenizer.added_tokens_decoder.values()
    special = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
    ends = _Ends(re.compile("|".join(map(re.escape, control)) or "(?!)"), frozenset(special), tokenizer.eos_token)
    try:
        template = _with_stop(draft, ends, stops)
        template.texts(Conversation(_TURNS, _TRIAL), frozenset({1}))
    except TemplateRefused as error:
        raise TemplateError(f"{error} (tried with one question and one answer); {OTHERS}") from error
    return _with_tools(_with_thoughts(_with_calls(template, ends)))


def _with_stop(draft: Template, ends: _Ends, asked: Sequence[str]) -> Template:
    """The control token that ends an answer: EOS where it stands behind every answer, else the first one there is.

    Where there is none, what was asked for is put there.
    """
    draft, written = _written(draft)
    found = ends.control.findall(written.rpartition(_ANSWER)[2])
    if not found and asked:
        return replace(draft, stop=asked[0], more_stops=tuple(asked[1:]), bare=True)
    if not found:
        later = ends.control.findall(_behind_first(draft))[:1]
        if later == [ends.eos]:  # only where the next turn begins
            return replace(draft, stop=later[0], bare=True)
        usual = [*later, *([ends.eos] if ends.eos else [])]
        called = next((one for one in ends.control.findall(_behind_call(draft)) if one in ends.special), None)
        calls = f"; where tools are called [{usual[0]}, {called}]" if called and called not in usual else ""
        hint = f"set template.stop to what ends one here ({' or '.join(usual)}{calls}), or " if usual else ""
        raise NoStop(f"the chat template writes no stop token behind an answer: {written!r}; a model trained on it "
                     f"would not stop; {hint}{OTHERS}")
    if asked:
        if asked[0] not in found:
            raise TemplateError(f"template.stop: the chat template ends an answer with {' and '.join(found)} itself, "
                                f"not with {asked[0]}; leave template.stop out")
        return replace(draft, stop=asked[0], more_stops=tuple(asked[1:]))
    everywhere = ends.eos in found[1:] and ends.eos in ends.control.findall(_behind_first(draft))
    return replace(draft, stop=str(ends.eos if everywhere else found[0]))


def _written(draft: Template) -> tuple[Template, str]:
    """A question and its answer, with contents as text or, where the Jinja wants it so, as blocks."""
    why = ""
    for blocks in (False, True):
        tried = replace(draft, form=Form(blocks=blocks))
        try:
            written = tried.render(_TURNS).text
        except TemplateRefused as error:
            why = why or str(error)
            continue
        if _ANSWER in written:
            return tried, written
        why = why or f"the chat template drops or rewrites the answer: {written!r}"
    raise TemplateRefused(why)


def _behind_first(draft: Template) -> str:
    """What is written between an answer and the next question."""
    try:
        written = draft.render((*_TURNS, *_TURNS)).text
    except TemplateRefused:
        return ""
    return written.partition(_ANSWER)[2].partition(_QUESTION)[0]


def _behind_call(draft: Template) -> str:
    """What is written between a call of a tool and its result."""
    turns = (_TURNS[0], _CALL, Turn("tool", _ANSWER))
    for form in _call_forms(draft):
        try:
            written = replace(draft, form=form).render(turns).text
        except TemplateRefused:
            continue
        if _VALUE in written:
            return written.partition(_VALUE)[2].partition(_ANSWER)[0]
    return ""


def _call_forms(template: Template) -> Iterator[Form]:
    return (template.form._replace(call_ids=ids, arguments_as_text=as_text, null_content=null)
            for ids, as_text, null in product(CALL_IDS, (False, True), (False, True)))


def _with_calls(template: Template, ends: _Ends) -> Template:
    """The form in which the Jinja takes tool calls, and what ends such a turn. A Jinja without tools stays as it is."""
    found = [(tried, behind) for form in _call_forms(template)
             if (behind := _behind_value(tried := replace(template, form=form))) is not None]
    if not found:
        return template
    tried, behind = next((one for one in found if _ids_agree(one[0])), found[0])
    tokens = ends.control.findall(behind)
    others = [token for token in tokens if token in ends.special]
    if template.stop in tokens or template.more_stops or template.bare or not others:
        return tried
    return replace(tried, more_stops=(others[-1],))


def _behind_value(tried: Template) -> str | None:
    """What is written behind the argument of a call; None where name or argument are not written."""
    try:
        written = tried.render((_TURNS[0], _CALL)).text
    except TemplateRefused:
        return None
    return written.rpartition(_VALUE)[2] if _NAME in written and _VALUE in written else None


def _ids_agree(tried: Template) -> bool:
    """Results are written with no id but one that is written for their call."""
    turns = (_TURNS[0], _CALL, Turn("tool", _ANSWER), _CALL, Turn("tool", _ANSWER))
    try:
        texts = [tried.render(turns[:end]).text for end in range(2, 6)]
    except TemplateRefused:
        return True
    ids = [message["tool_call_id"] for message in messages_of(turns, tried.form) if message["role"] == "tool"]
    return all(one in called or one not in answered for one, called, answered in zip(
        ids, texts[::2], texts[1::2], strict=True))


def _with_thoughts(template: Template) -> Template:
    """Hand thoughts over apart where the Jinja has a place for them; others read them in the content, or drop them.
    What the prompt opens, and what is written around a thought, is found by asking."""
    try:
        prompt = template.prompt(_TURNS[:1])
    except TemplateRefused:
        return template
    opened = opened_in(prompt.rpartition(_QUESTION)[2])
    tags = tuple(pair for pair in TAGS if any(tag in template.jinja for tag in pair))
    template = replace(template, form=template.form._replace(
        tags=tags, opened=opened[1] if opened and not closes_thought(prompt) else None))
    said, call = f"<think>\n{_VALUE}\n</think>\n\n", (ToolCall(_NAME, "{}"),)
    answer, calling = Turn("assistant", said + _ANSWER), Turn("assistant", said, call)
    for form in (template.form._replace(thoughts="apart"), template.form._replace(thoughts="blocks")):
        for turn in (answer, calling):
            before, behind, whole = _around(replace(template, form=form), turn, prompt)
            if behind and not _AS_DATA.search(whole):
                return replace(template, form=form._replace(opening=_tagged(before), closing=_tagged(behind)))
    # An empty thought in front of the one in the content: that one has its place elsewhere.
    before, behind, whole = _around(template, answer, prompt)
    twice = behind and EMPTY.match(before)
    return replace(template, form=template.form._replace(thoughts="apart")) if twice else template


def _around(template: Template, turn: Turn, prompt: str) -> tuple[str, str, str]:
    """What a Jinja writes before and behind the thought of an answer, and all; of a call only what ends the thought."""
    try:
        written = template.render((_TURNS[0], turn)).text
    except TemplateRefused:
        return "", "", ""
    before, _, behind = written.removeprefix(prompt).partition(_VALUE)
    ended = ANY_TAG.search(behind)
    if turn.tool_calls:
        return before, behind[: ended.end()] if ended else behind, written
    return before, behind.partition(_ANSWER)[0] or behind, written


def _tagged(text: str) -> str:
    return text if ANY_TAG.search(text) else ""


def _with_tools(template: Template) -> Template:
    """Wrap tools that come as bare functions where the Jinja cannot do without; data has them in both forms."""
    bare = json.dumps([{"name": _NAME, "description": "d", "parameters": {"type": "object", "properties": {}}}])
    try:
        template.render(_TURNS, bare)
    except TemplateRefused:
        return replace(template, form=template.form._replace(wrapped_tools=True))
    return template


def _refuse_marks_on_others(template: Template) -> None:
    """Raises TemplateError when generation marks enclose what a user says."""
    if not template.marked:
        return
    rendering = template.render(_TURNS, marked=True)
    enclosed = "".join(rendering.text[start:end] for start, end in rendering.marks)
    if _QUESTION in enclosed:
        raise TemplateError(f"the generation marks of the chat template enclose the user's turn: {enclosed!r}; "
                            f"{OTHERS}")
