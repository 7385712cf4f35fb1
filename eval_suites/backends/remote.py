"""Any OpenAI-compatible server as a model: generation suites through its own chat template.

A model reference `http://host/v1#model-name`. Answers are kept by what was asked, as those of local models are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from eval_suites.backends.cache import KeptRows
from eval_suites.backends.generate import Answer
from eval_suites.backends.parallel import as_they_end
from eval_suites.suites.chat_item import ChatItem
from sft_core.config.evaluate import EndpointSection
from sft_core.errors import EvalError
from sft_core.masking import has_secret
from sft_core.stage import fingerprint


class Replied(Protocol):
    """What is needed of a reply; see `endpoint.Reply`."""

    @property
    def text(self) -> str:
        """The answer."""

    @property
    def finish_reason(self) -> str:
        """`stop`, `length`, ..."""

    @property
    def completion_tokens(self) -> int:
        """Tokens of the answer, as the server counts them."""


class Chat(Protocol):
    """Asks a server once; `endpoint.Endpoint.chat` is one."""

    def __call__(self, messages: Any, *, max_tokens: int, tools: Any = None) -> Replied:
        """Raises EvalError when there is no answer."""


def is_endpoint(reference: str) -> bool:
    """A model reference that names a server."""
    return reference.startswith(("http://", "https://"))


def endpoint_of(reference: str) -> EndpointSection:
    """`http://host/v1#model-name` as a section.

    Raises:
        EvalError: the name of the model is missing, or there is a password.
    """
    url, sharp, name = reference.rpartition("#")  # the last one: a password may hold one, too
    if has_secret(url or reference) or "@" in name and not _is_whole(url):
        raise EvalError("the address of the server holds a password, and results keep where they come from; give the "
                        "server's key in OPENAI_API_KEY, and the address as http://host/v1#model-name without one")
    if not (sharp and name):
        raise EvalError(f"{reference} names no model; write http://host/v1#model-name")
    return EndpointSection(url=url.rstrip("/"), model=name)


def _is_whole(url: str) -> bool:
    """Whether it has a path behind a host, and a port that is a number: nothing of it goes on behind a #."""
    return re.match(r"https?://[^/@:]+(:\d+)?/.", url) is not None


class Remote:
    """Answers of a server.

    Args:
        chat: asks it once.
        section: where it is; requests under way at a time.
        folder: where answers are kept; None: nowhere.
    """

    def __init__(self, chat: Chat, section: EndpointSection, folder: Path | None) -> None:
        self._chat, self._parallel = chat, section.parallel
        file = f"{fingerprint('endpoint', section.url, section.model)}.jsonl"
        self._kept = KeptRows(folder / file if folder else None)

    def answers(self, items: Sequence[ChatItem], longest: int) -> Iterator[tuple[int, Answer]]:
        """As `Answerer.answers`; a request that fails after all tries leaves its item without an answer."""
        keys = [fingerprint(item.messages, item.tools, longest) for item in items]
        missing = []
        for place, key in enumerate(keys):
            row: Mapping[str, Any] | None = self._kept.get(key)
            if row is None:
                missing.append(place)
            else:
                yield place, Answer(row["text"], row["stopped"], "", row["tokens"])
        for at, answer in as_they_end(lambda place: self._one(items[place], longest), missing, self._parallel):
            if answer.text is not None:
                self._kept.put(keys[missing[at]], {"text": answer.text, "stopped": answer.stopped,
                                                   "tokens": answer.tokens})
            yield missing[at], answer

    def _one(self, item: ChatItem, longest: int) -> Answer:
        try:
            reply = self._chat(item.messages, max_tokens=longest, tools=json.loads(item.tools) if item.tools else None)
        except EvalError as error:
            return Answer(None, False, f"no answer: {error}")
        return Answer(reply.text or "", reply.finish_reason != "length", "", reply.completion_tokens or 0)
