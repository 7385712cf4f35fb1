"""The parity certificate: are the token ids of training, evaluation, template and server the same, and the stops?

The reference is what a server makes of a chat: `apply_chat_template(tokenize=True)` of the model folder's own
tokenizer. Every other path is compared with it, id by id; a server only tells how many tokens it was asked, and what
it answers greedily.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from eval_suites.backends.generate import prompt_ids, stop_ids
from eval_suites.lm_door.ids import LmIds
from eval_suites.parity.probes import ANSWER, Probe, probes
from eval_suites.suites.chat_item import ChatItem
from eval_suites.verdict.outcome import Check
from sft_core.conversation import Conversation, Origin, Rejected, Turn
from sft_core.errors import EvalError, TemplateError
from sft_core.templates.choose import control_tokens
from sft_core.templates.messages import RAISED, Form, messages_of, tools_of
from sft_core.templates.render import IGNORE, Renderer

TEMPLATE = "apply_chat_template"
TRAINING, SCORED, GENERATED, OURS, SERVER = "training", "lm-eval scores", "lm-eval generates", "evaluation", "server"
STOPS = "stop tokens"
GREEDY_TOKENS = 16


class Reply(Protocol):
    """What is needed of a server's answer."""

    @property
    def text(self) -> str: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def prompt_tokens(self) -> int: ...


class Server(Protocol):
    """A server that speaks OpenAI's chat completions."""

    def chat(self, messages: Sequence[Mapping[str, Any]], *, max_tokens: int,
             tools: Sequence[Mapping[str, Any]] | None = None) -> Reply:
        """One answer.

        Raises:
            EvalError: the server does not answer.
        """


class Row(NamedTuple):
    """One probe on one path."""

    probe: str
    path: str
    tokens: int | None  # of the prompt; None where there are none
    same: bool | None  # None: could not be compared, see `why`
    why: str


class Certificate(NamedTuple):
    """All rows. It passed when no row differs and every path was compared at least once."""

    rows: tuple[Row, ...]
    passed: bool
    why: str

    def check(self) -> Check:
        """As a condition of the verdict."""
        return Check("parity", self.passed, self.why)

    def table(self) -> list[dict[str, object]]:
        """For people: one line per probe and path."""
        said = {True: "same", False: "DIFFERS", None: "not compared"}
        return [{"probe": row.probe, "path": row.path, "tokens": "" if row.tokens is None else row.tokens,
                 "result": said[row.same], "why": row.why} for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"passed": self.passed, "why": self.why, "rows": [row._asdict() for row in self.rows]}


class Deployed(NamedTuple):
    """A model folder as it will be served, loaded. `stops`: eos_token_id of its generation_config.json."""

    model: Any
    tokenizer: Any
    stops: tuple[int, ...]


def certify(deployed: Deployed, training: Renderer, server: Server | None = None) -> Certificate:
    """Compare all paths on all probes.

    Args:
        deployed: the model as it will be served.
        training: template and tokenizer that the model was trained with.
        server: a running server of that model; None leaves it out.

    Raises:
        EvalError: the server does not answer.
    """
    tokenizer = deployed.tokenizer
    if not tokenizer.chat_template:
        why = "the model folder has no chat template, so a server cannot talk to it"
        return Certificate((Row("template", TEMPLATE, None, False, why),), False, why)
    controls = control_tokens(tokenizer, training.template.jinja)
    rows = list(_stop_rows(deployed, training))
    paths = _Paths(deployed, training, server)
    for probe in probes(paths.window, controls):
        rows += paths.rows(probe)
    return _judged(tuple(rows), served=server is not None)


class _Paths:
    """Every way from a conversation to token ids."""

    def __init__(self, deployed: Deployed, training: Renderer, server: Server | None) -> None:
        self._deployed, self._training, self._server = deployed, training, server
        self._lm = LmIds(deployed.model, deployed.tokenizer)
        self.window = int(getattr(deployed.model.config, "max_position_embeddings", None) or 4096)

    def rows(self, probe: Probe) -> Iterator[Row]:
        tokenizer, form = self._deployed.tokenizer, self._training.template.form
        messages, tools = messages_of(probe.turns, form), tools_of(probe.tools, form)
        try:
            wanted = list(tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True,
                                                        tokenize=True, return_dict=False))
        except RAISED as error:
            yield Row(probe.name, TEMPLATE, None, None, f"the chat template has no form for it: {error}")
            return
        yield _reference(probe.name, wanted, tokenizer)
        yield self._trained(probe, wanted)
        item = ChatItem(probe.name, "parity", probe.name, messages, json.dumps(tools) if tools else None, {})
        yield self._compared(probe.name, OURS, wanted, prompt_ids(tokenizer, item, tokenizer.get_chat_template()))
        for path, ids in ((SCORED, self._lm.scored), (GENERATED, self._lm.generated)):
            if tools:
                yield Row(probe.name, path, None, None, "lm-eval's chat path takes no tools")
            else:
                yield self._compared(probe.name, path, wanted, ids(messages))
        if self._server is not None:
            yield self._served(self._server, probe, wanted)

    def _compared(self, probe: str, path: str, wanted: Sequence[int], found: Sequence[int]) -> Row:
        why = difference(wanted, found, self._deployed.tokenizer)
        return Row(probe, path, len(found), not why, why)

    def _trained(self, probe: Probe, wanted: list[int]) -> Row:
        """Ids in front of the answer, in a rendered training example."""
        turns = (*probe.turns, Turn("assistant", ANSWER))
        try:
            made = self._training.render(Conversation(turns, Origin("parity", probe.name, 1), probe.tools))
        except TemplateError as error:
            return Row(probe.name, TRAINING, None, False, str(error))
        if isinstance(made, Rejected):
            return Row(probe.name, TRAINING, None, None, f"never trained: {made.detail}")
        if made.escaped:
            return Row(probe.name, TRAINING, None, None, "training reads it as plain text (template.control_text: "
                       "escape); a server reads a control token")
        example = made.examples[-1]
        last = max(at for at, target in enumerate(example.targets) if target != IGNORE)
        first = next((at + 1 for at in range(last, -1, -1) if example.targets[at] == IGNORE), 0)
        if example.targets[last] not in self._training.stop_ids:
            return Row(probe.name, TRAINING, first + 1, False, "the trained answer does not end in a stop token")
        return self._compared(probe.name, TRAINING, wanted, example.input_ids[:first + 1])

    def _served(self, server: Server, probe: Probe, wanted: list[int]) -> Row:
        """A server says how long the prompt was; its greedy answer must be the one of this process."""
        if len(wanted) + GREEDY_TOKENS > self.window:
            return Row(probe.name, SERVER, None, None, f"{len(wanted)} tokens and an answer exceed the window")
        messages = openai_messages(probe.turns, self._training.template.form)
        reply = server.chat(messages, max_tokens=GREEDY_TOKENS,
                            tools=json.loads(probe.tools) if probe.tools else None)
        text, stopped = self._greedy(wanted)
        why = ""
        if reply.prompt_tokens != len(wanted):
            why = f"it was asked {reply.prompt_tokens} tokens, the template makes {len(wanted)}"
        elif reply.finish_reason != "tool_calls" and reply.text.strip() != text.strip():
            why = f"it answers {reply.text!r}, this process {text!r}"
        elif stopped and reply.finish_reason == "length":
            why = "it went on behind the stop token"
        return Row(probe.name, SERVER, reply.prompt_tokens, not why, why)

    @torch.inference_mode()
    def _greedy(self, ids: list[int]) -> tuple[str, bool]:
        """The greedy answer, and whether it ended by itself before the last token. Ends on what training stops on."""
        model, tokenizer = self._deployed.model, self._deployed.tokenizer
        asked = torch.tensor([ids], device=model.device)
        ends = sorted({*self._training.stop_ids, *self._deployed.stops})
        found = model.generate(input_ids=asked, attention_mask=torch.ones_like(asked), do_sample=False,
                               max_new_tokens=GREEDY_TOKENS, eos_token_id=ends, pad_token_id=ends[0])
        said = found[0, len(ids):].tolist()
        return tokenizer.decode(said, skip_special_tokens=True), len(said) < GREEDY_TOKENS


def openai_messages(turns: Sequence[Turn], form: Form) -> list[dict[str, Any]]:
    """Turns as the OpenAI interface has them: arguments of calls as JSON text, ids as in `form`."""
    plain = messages_of(turns, Form(arguments_as_text=True, call_ids=form.call_ids))
    return [{key: value for key, value in message.items() if key != "name"} for message in plain]


def difference(wanted: Sequence[int], found: Sequence[int], tokenizer: Any) -> str:
    """The first difference in words; '' where there is none."""
    if list(wanted) == list(found):
        return ""
    pairs = enumerate(zip(wanted, found, strict=False))
    at = next((at for at, (a, b) in pairs if a != b), min(len(wanted), len(found)))
    shown = [tokenizer.convert_ids_to_tokens(list(ids[at:at + 4])) for ids in (found, wanted)]
    more = " (BOS in front)" if list(found[1:]) == list(wanted) and found[0] == tokenizer.bos_token_id else ""
    return (f"{len(found)} tokens, the template makes {len(wanted)}{more}; from token {at} on {shown[0]} instead of "
            f"{shown[1]}")


def _reference(probe: str, ids: Sequence[int], tokenizer: Any) -> Row:
    """Nothing to be compared with, but a prompt that begins with BOS twice is wrong on every path."""
    bos = tokenizer.bos_token_id
    double = bos is not None and list(ids[:2]) == [bos, bos]
    return Row(probe, TEMPLATE, len(ids), not double, "it begins with BOS twice" if double else "")


def _stop_rows(deployed: Deployed, training: Renderer) -> Iterator[Row]:
    """What training ends answers with must end them everywhere."""
    names = deployed.tokenizer.convert_ids_to_tokens(list(training.stop_ids))
    evaluated = stop_ids(deployed.model, deployed.tokenizer, training.template.stops)
    for path, ends in (("generation_config.json", deployed.stops), (OURS, evaluated)):
        lacking = [name for name, token in zip(names, training.stop_ids, strict=True) if token not in ends]
        why = f"answers end in {', '.join(names)} in training; {', '.join(lacking)} does not end them here" if lacking \
            else ""
        yield Row(STOPS, path, None, not why, why)


def _judged(rows: tuple[Row, ...], *, served: bool) -> Certificate:
    wrong = [row for row in rows if row.same is False]
    if wrong:
        first = wrong[0]
        return Certificate(rows, False, f"{len(wrong)} of {len(rows)} comparisons differ; first: {first.probe}, "
                           f"{first.path}: {first.why}")
    paths = (TRAINING, OURS, SCORED, GENERATED, *((SERVER,) if served else ()))
    never = [path for path in paths if not any(row.path == path and row.same for row in rows)]
    if never:
        return Certificate(rows, False, f"no probe could be compared on {', '.join(never)}")
    count = sum(row.same is True for row in rows)
    return Certificate(rows, True, f"{count} comparisons over {len({row.probe for row in rows}) - 1} probes are the "
                       "same, token by token, and so are the stop tokens")


def require_stops(ids: object) -> tuple[int, ...]:
    """`eos_token_id` of a generation config as ids.

    Raises:
        EvalError: it is neither an id nor a list of ids.
    """
    found = ids if isinstance(ids, list) else [] if ids is None else [ids]
    if not all(isinstance(token, int) for token in found):
        raise EvalError(f"eos_token_id of the generation config is {ids!r}; it holds an id or a list of ids")
    return tuple(found)
