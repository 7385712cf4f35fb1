"""`sft chat`: a conversation on the terminal with one model, or with two side by side. Whatever they say is data: it is
shown, and the terminal obeys nothing in it."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from flows.console import console, lines
from flows.place import look, workspace
from sft_core.config.data import ModelSection
from sft_core.errors import ConfigError, EvalError, Interrupted
from sft_core.stopping import SIGNALS, stop_on_signals
from sft_core.visible import numbered, shortened, visible
from tasks.chat import How, Part, Said, Speaker, speakers
from tasks.mirror import asked_mirror

NARROW = 90
"""Columns of a terminal below which two answers stand below each other."""
STREAMED = 6000
"""Characters of an answer's end that are laid out while it grows."""
REFRESH_S = 0.1
STYLE = {"text": "", "thought": "dim italic", "call": "bold cyan", "problem": "yellow"}
HEAD = {"text": "", "thought": "thinks  ", "call": "calls   ", "problem": "unread  "}
HELP = ("/reset        begin anew", "/system TEXT  begin anew with this system text; without TEXT without one",
        "/tool TEXT    hand back what a tool has found", "/quit         leave; Ctrl-D and Ctrl-C too",
        "All else is sent as it is; a space before a / sends that too. Ctrl-C ends an answer.")


class Wanted(NamedTuple):
    """What the options of the command say besides the models."""

    template: str
    how: How
    system: str = ""
    prompts: tuple[str, ...] = ()
    as_json: bool = False


def run_chat(model: ModelSection, against: str | None, wanted: Wanted, mirror: Path | None) -> None:
    """Talk until the prompts are answered, or as long as a person wants to.

    Raises:
        EvalError: a prompt that was given as an option, or by a pipe, cannot be answered.
    """
    prompts = wanted.prompts or _piped()
    place = asked_mirror(workspace(), mirror)
    found = speakers(model, against, wanted.template, place, look)
    for one in found:
        one.reset(wanted.system)
    if prompts:
        for prompt in prompts:
            _tell(prompt, found, _asked(found, "user", prompt, wanted.how, live=False), as_json=wanted.as_json)
        return
    for one in found:
        lines(f"{one.name}: {one.note}")
    how = f"temperature {wanted.how.temperature:g}" if wanted.how.temperature else "greedy, as it is evaluated"
    lines(f"{how}, up to {wanted.how.longest} tokens; /help")
    _talk(found, wanted.how)


def _piped() -> tuple[str, ...]:
    """What a pipe or a file gives, as one prompt.

    Raises:
        ConfigError: that is nothing, or no text.
    """
    if sys.stdin.isatty():
        return ()
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"standard input is no text in UTF-8 ({error}); give a prompt by --prompt, or pipe a text"
                          ) from error
    if not text.strip():
        raise ConfigError("there is no terminal and nothing to read; give a prompt by --prompt, or pipe a text")
    return (text.removesuffix("\n"),)


def _talk(found: Sequence[Speaker], how: How) -> None:
    """A person's lines, until they leave."""
    import readline  # noqa: F401  (arrows and history in `input`)

    while (line := _line()) is not None:
        command, _, rest = line.partition(" ")
        if command in ("/quit", "/exit"):
            return
        if not line.strip():
            continue
        if command == "/tool":
            _answered(found, "tool", rest, how)
        elif line.startswith("/"):
            _command(found, command, rest.strip())
        else:
            _answered(found, "user", line.removeprefix(" ") if line.startswith(" /") else line, how)


def _command(found: Sequence[Speaker], command: str, rest: str) -> None:
    if command not in ("/reset", "/system"):
        lines(*(HELP if command == "/help" else (f"{command} is no command; /help shows them",)))
        return
    for one in found:
        one.reset(rest if command == "/system" else None)
    lines("begun anew" + (f", with the system text: {found[0].system}" if found[0].system else ""))


def _answered(found: Sequence[Speaker], role: Literal["user", "tool"], text: str, how: How) -> None:
    try:
        said = _asked(found, role, text, how, live=console.is_terminal)
    except EvalError as error:
        lines(str(error))
        return
    console.print(_side_by_side(found, said, console))
    console.print()


def _line() -> str | None:
    """The next line; None when the person leaves."""
    with _leaving():
        try:
            return input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return None


@contextmanager
def _leaving() -> Iterator[None]:
    """At the prompt a signal is a wish to leave: there is no loop that would look at a flag."""

    def leave(*_: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, leave) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _asked(found: Sequence[Speaker], role: Literal["user", "tool"], text: str, how: How, *, live: bool) -> list[Said]:
    """The answers of all models, shown as they grow where that is wanted.

    Raises:
        EvalError: one of them cannot answer; then none of them has heard it.
        Interrupted: SIGTERM, or a signal where nothing is shown.
    """
    latest = [Said("", ())] * len(found)
    before = [list(one.messages) for one in found]

    def keep(at: int) -> Callable[[Said], None]:
        def told(said: Said) -> None:
            latest[at] = said
        return told

    with stop_on_signals() as request, ThreadPoolExecutor(len(found)) as pool:
        under_way = [pool.submit(one.ask, role, text, how, keep(at)) for at, one in enumerate(found)]
        if live:
            with Live(console=console, transient=True, auto_refresh=False, vertical_overflow="crop") as shown:
                while not all(one.done() for one in under_way):
                    shown.update(_side_by_side(found, latest, console, growing=True), refresh=True)
                    time.sleep(REFRESH_S)
        said = _results(found, before, under_way)
    if request and (not live or request.asked_by == "SIGTERM"):
        raise Interrupted(f"stopped by {request.asked_by}")
    return said


def _results(found: Sequence[Speaker], before: Sequence[list[dict[str, str]]], under_way: Sequence[Future[Said]]
             ) -> list[Said]:
    try:
        return [one.result() for one in under_way]
    except EvalError:
        for one, messages in zip(found, before, strict=True):
            one.messages[:] = messages
        raise


def _tell(prompt: str, found: Sequence[Speaker], said: Sequence[Said], *, as_json: bool) -> None:
    """For scripts: the answers alone, or all that is known of them as a line of JSON each."""
    if as_json:
        for speaker, one in zip(found, said, strict=True):
            row = {"model": speaker.name, "prompt": prompt, "answer": one.text, "tokens": one.tokens,
                   "stopped": one.stopped, "parts": [part._asdict() for part in one.parts]}
            print(numbered(json.dumps(row, ensure_ascii=False)))
    elif len(found) == 1:
        lines(*(f"{HEAD[part.kind]}{part.text}" for part in said[0].parts))
    else:
        console.print(_side_by_side(found, said, console))


def _side_by_side(found: Sequence[Speaker], said: Sequence[Said], to: Console, *, growing: bool = False
                  ) -> RenderableType:
    """Answers in columns under the names of their models, or below each other where the terminal is narrow."""
    if len(found) == 1:
        return _shown(said[0], to.width, to.height - 2, growing=growing)
    if to.width < NARROW:
        height = (to.height - 4) // 2
        return Group(*(piece for speaker, one in zip(found, said, strict=True) for piece in (
            Rule(Text(visible(speaker.name)), align="left"), _shown(one, to.width, height, growing=growing))))
    table = Table.grid(expand=True, padding=(0, 3, 0, 0))
    for _ in found:
        table.add_column(ratio=1, overflow="fold")
    table.add_row(*(Text(visible(speaker.name), style="bold underline") for speaker in found))
    table.add_row(*(_shown(one, to.width // 2 - 4, to.height - 4, growing=growing) for one in said))
    return table


def _shown(said: Said, width: int, height: int, *, growing: bool) -> Text:
    """An answer; while it grows its end, as far as there is room."""
    pieces = [_piece(part, growing=growing) for part in said.parts]
    if said.interrupted:
        pieces.append(Text("(ended by you)", style="dim"))
    elif not growing and not said.stopped:
        pieces.append(Text("(cut at the limit of tokens)", style="dim"))
    text = Text("\n", overflow="fold").join(pieces)
    if not growing:
        return text
    laid_out = text.wrap(console, max(width, 1), overflow="fold")
    return Text("\n").join(laid_out[-max(height, 1):])


def _piece(part: Part, *, growing: bool) -> Text:
    text = visible(part.text[-STREAMED:]) if growing else shortened(part.text)
    return Text.assemble((HEAD[part.kind], "bold"), (text, STYLE[part.kind]))
