"""A conversation with a model, token by token: through the template and the stops that evaluation asks it through."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sft_core.config.data import ModelSection
from sft_core.errors import ConfigError, EvalError, Interrupted
from sft_core.stage import read_json
from tasks.mirror import mirrored
from tasks.named import Named, Opener, named_model, spoken_through
from tasks.stages import Workspace

if TYPE_CHECKING:
    from eval_suites.asking.respondent import ChatFormat, Respondent
    from eval_suites.backends.contract import Draw
    from sft_core.templates.thoughts import Tags

BASE = "base"
"""In place of a model that another one is compared with: what that one was trained from."""
UNFINISHED = "\ufffd"
"""At the end of a text whose last letter has bytes to come."""


class Part(NamedTuple):
    """A piece of an answer. A `call` is a tool call that can be read, `problem` says what of one cannot."""

    kind: Literal["text", "thought", "call", "problem"]
    text: str


class How(NamedTuple):
    """How answers are made. `tools` is JSON text of a list of function schemas."""

    longest: int = 512
    temperature: float = 0.0
    tools: str | None = None


class Said(NamedTuple):
    """An answer so far, or at its end. `text` is as the model wrote it."""

    text: str
    parts: tuple[Part, ...]
    tokens: int = 0
    stopped: bool = True  # by itself, not by the limit of tokens
    interrupted: bool = False


@dataclass
class Speaker:
    """A model that talks, with what was said so far."""

    name: str
    respondent: Respondent
    note: str
    system: str = ""
    messages: list[dict[str, str]] = field(default_factory=list)

    def reset(self, system: str | None = None) -> None:
        """Begin anew, with another system text where one is given."""
        self.system = self.system if system is None else system
        self.messages.clear()

    def ask(self, role: Literal["user", "tool"], text: str, how: How, told: Callable[[Said], None]) -> Said:
        """Say something and get the answer, which becomes part of what was said. Ctrl-C ends it where it is.

        Args:
            told: is given the answer so far, after each token.

        Raises:
            EvalError: the template refuses the conversation, it does not fit the window, or the model cannot answer; it
                is then as it was before.
        """
        from eval_suites.suites.chat_item import ChatItem

        asked = [*([{"role": "system", "content": self.system}] if self.system else []), *self.messages,
                 {"role": role, "content": text}]
        said = self._answered(ChatItem("chat", "chat", "chat", asked, how.tools, {}), how, told)
        self.messages += [{"role": role, "content": text}, {"role": "assistant", "content": said.text}]
        return said

    def _answered(self, item: Any, how: How, told: Callable[[Said], None]) -> Said:
        from eval_suites.backends import alone
        from eval_suites.backends.generate import Answer, Templated
        from sft_core.templates.thoughts import begun_in

        speaker, tokenizer = self.respondent.answerer, self.respondent.tokenizer
        assert isinstance(speaker, Templated), "it has a template"
        asked = speaker.prompt(item, how.longest)
        if isinstance(asked, Answer):
            raise EvalError(f"{self.name} cannot be asked this: {asked.why}; say less or "
                            "say it otherwise, or begin anew")
        opened = begun_in(tokenizer.decode(asked.ids))
        latest = Said("", ())

        def tell(ids: Any) -> None:
            nonlocal latest
            text = speaker.text(ids, stopped=False)[0].removesuffix(UNFINISHED)
            latest = Said(text, tuple(parts(text, opened, done=False)), len(ids), stopped=False)
            told(latest)

        try:
            made = alone.generated(self.respondent.network, asked._replace(draw=_draw(how.temperature)), speaker.stops,
                                   tokenizer.pad_token_id or 0, tell)
        except Interrupted:
            return latest._replace(interrupted=True)
        found = speaker.answer(asked, made)
        if found.text is None:
            raise EvalError(f"{self.name} gives no answer: {found.why}; `sft doctor` looks what is wrong with a model")
        return Said(found.text, tuple(parts(found.text, opened, done=True)), found.tokens, found.stopped)


def speakers(asked: ModelSection, against: str | None, template: str, place: Workspace, tracker: Opener
             ) -> list[Speaker]:
    """The model, and the one that it is held against, loaded. One without a chat template of its own is asked through
    the other's, as in evaluation.

    Args:
        asked: its name as `path`, see `named_model`, with device, precision and trust.
        against: likewise, or `base`: what the run of the first one began with.
        template: for models without one of their own.

    Raises:
        ConfigError: there is no such base, or a server is asked for.
        ModelError, TemplateError, TrackingError: a model cannot be found, loaded or talked to.
    """
    found = [_found(asked, template, place, tracker)]
    if against is not None:
        other, where = _other(asked, against, found[0].named, place)
        found.append(_found(other, template, where, tracker))
    own = next((one for one in found if one.own), None)
    return [_loaded(one, own if own and not one.own else one) for one in found]


class _Found(NamedTuple):
    named: Named
    model: ModelSection
    form: ChatFormat
    own: bool  # the template is the model's own
    place: Workspace


def _found(asked: ModelSection, template: str, place: Workspace, tracker: Opener) -> _Found:
    from eval_suites.backends.remote import is_endpoint

    if is_endpoint(asked.path):
        raise ConfigError(f"{asked.path} is a server, and chat loads models itself; give the model that it serves")
    named = named_model(asked.path, place, tracker)
    model = asked.model_copy(update={"path": named.path})
    name, form = spoken_through(model, template, place)
    return _Found(named, model, form, name == "model", place)


def _other(asked: ModelSection, against: str, first: Named, place: Workspace) -> tuple[ModelSection, Workspace]:
    if against != BASE:
        return asked.model_copy(update={"path": against, "revision": None}), place
    if first.run is None:
        raise ConfigError(f"--against base is what a run began with, and {first.reference} is no run; name the model")
    config = first.run.config().config
    base = asked.model_copy(update={"path": config.model.path, "revision": config.model.revision})
    return base, mirrored(place, config.data.mirror)


def _loaded(one: _Found, spoken: _Found) -> Speaker:
    from eval_suites.asking.respondent import respondent_of
    from sft_core.model.load import compute_dtype, load_model, resolve_device

    device = resolve_device(one.model)
    loaded = load_model(one.model, mirror=one.place.mirror, dtype=compute_dtype(one.model, device))
    respondent = respondent_of(loaded.model.to(device).eval(), loaded.tokenizer, spoken.form, None)
    name = one.named.run.name if one.named.run else Path(one.named.path).name
    through = "its own template" if one.own else f"the template of {spoken.named.reference}" if spoken.own else (
        "a built-in template")
    return Speaker(name, respondent, f"{through}, {_certified(one.named)}")


def _certified(named: Named) -> str:
    """Whether its run has found that training, evaluation and template see the same tokens."""
    file = named.run.folder / "verdict.json" if named.run else None
    checks = read_json(file).get("checks", ()) if file and file.exists() else ()
    passed = next((good for name, good, _ in checks if name == "parity"), None)
    return {True: "certified by its run", False: "which FAILED the certificate of its run",
            None: "not certified (`sft parity` does it)"}[passed]


def _draw(temperature: float) -> Draw | None:
    """Another answer every time; None for greedy ones."""
    from eval_suites.backends.contract import Draw

    return Draw(temperature, 1.0, random.getrandbits(63)) if temperature else None


def parts(text: str, opened: Tags | None, *, done: bool) -> Iterator[Part]:
    """An answer as its thought, its text and its tool calls.

    Args:
        opened: tags of the thought that the prompt begins.
        done: the answer is at its end; calls are read only then.
    """
    from eval_suites.scorers.toolcalls import parse_calls
    from sft_core.templates.thoughts import TAGS, thought_of

    thought = thought_of(text, opened)
    begun = opened or next((tags for tags in TAGS if text.lstrip().startswith(tags[0])), None)
    if thought is None and begun:
        yield Part("thought", text.lstrip().removeprefix(begun[0]).strip())
        return
    if thought:
        if thought.thinking.strip():
            yield Part("thought", thought.thinking.strip())
        text = thought.answer.lstrip()
    calls = parse_calls(text) if done else None
    if calls is None or not (calls.calls or calls.problem):
        yield Part("text", text)
        return
    if calls.problem:  # all of it can be seen, also what could be read
        yield from (Part("text", text), Part("problem", calls.problem))
        return
    if calls.rest.strip():
        yield Part("text", calls.rest)
    yield from (Part("call", f"{call.name}({json.dumps(call.arguments, ensure_ascii=False)})") for call in calls.calls)
