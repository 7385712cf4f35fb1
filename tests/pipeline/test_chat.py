"""`sft chat`: the answers of evaluation, a conversation that stays whole, and a terminal that obeys no answer."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from eval_suites.backends.converse import in_order
from eval_suites.suites.chat_item import ChatItem
from flows import chat as screen
from flows import console as terminal
from flows.chat import Wanted, run_chat
from flows.cli_using import _tools
from sft_core.config.data import ModelSection
from sft_core.errors import ConfigError, EvalError, Interrupted
from sft_core.stopping import check
from sft_core.tiny.paths import BASE_FOLDER
from tasks.chat import How, Part, Said, Speaker, parts, speakers
from tasks.stages import Workspace

Sft = Callable[..., subprocess.CompletedProcess[str]]
JINJA = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
         "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
HOSTILE = "\x1b]0;owned\x07\x1b[2J[red]bold[/] \u202eevil\u2066 \x9b31m <end>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny base with a chat template."""
    made = tmp_path / "talker"
    made.mkdir()
    for file in BASE_FOLDER.iterdir():
        (made / file.name).symlink_to(file)
    (made / "chat_template.jinja").write_text(JINJA)
    return made


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home", None)


def no_tracker() -> Any:
    raise AssertionError("no tracker is needed")


@pytest.fixture
def talker(folder: Path, place: Workspace) -> Speaker:
    (one,) = speakers(ModelSection(path=str(folder)), None, "auto", place, no_tracker)
    return one


def test_answers_are_those_of_evaluation_and_turns_those_of_a_conversation(talker: Speaker) -> None:
    seen: list[Said] = []
    first = talker.ask("user", "What is the colour of Pelu?", How(12), seen.append)
    second = talker.ask("user", "And of Kai?", How(12), seen.append)
    talked = [{"role": "user", "content": "What is the colour of Pelu?"}, {"role": "assistant", "content": first.text},
              {"role": "user", "content": "And of Kai?"}]
    items = [ChatItem(str(at), "x", "x", talked[:at], None, {}) for at in (1, 3)]
    assert talker.respondent.answerer is not None
    wanted = in_order(talker.respondent.answerer.answers(items, 12), 2)
    assert [(one.text, one.tokens, one.stopped) for one in (first, second)] == [
        (one.text, one.tokens, one.stopped) for one in wanted]
    assert first.text
    assert [one.tokens for one in seen] == [*range(1, first.tokens + 1), *range(1, second.tokens + 1)]
    assert seen[first.tokens - 1].text == first.text
    talker.reset("Be brief.")
    assert talker.ask("user", "Hi", How(3), seen.append).text == in_order(talker.respondent.answerer.answers([ChatItem(
        "s", "x", "x", [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}], None, {})], 3),
        1)[0].text


def test_what_cannot_be_asked_leaves_the_conversation_as_it_was(talker: Speaker) -> None:
    talker.ask("user", "Hi", How(2), lambda _: None)
    before = list(talker.messages)
    with pytest.raises(EvalError, match="do not fit the model's window of 256; say less"):
        talker.ask("user", "word " * 5000, How(2), lambda _: None)
    assert talker.messages == before


def test_a_temperature_samples(talker: Speaker) -> None:
    said = set()
    for seed in range(3):
        random.seed(seed)
        talker.reset()
        said.add(talker.ask("user", "Hi", How(8, temperature=3.0), lambda _: None).text)
    assert len(said) == 3


def test_a_base_without_a_template_is_asked_through_that_of_the_other(folder: Path, place: Workspace) -> None:
    tuned, base = speakers(ModelSection(path=str(folder)), "tiny", "auto", place, no_tracker)
    assert (tuned.note, base.note) == ("its own template, not certified (`sft parity` does it)",
                                       f"the template of {folder}, not certified (`sft parity` does it)")
    assert tuned.respondent.form == base.respondent.form
    for wrong, said in (("base", "is no run; name the model"), ("http://127.0.0.1:1/v1#m", "is a server")):
        with pytest.raises(ConfigError, match=said):
            speakers(ModelSection(path=str(folder)), wrong, "auto", place, no_tracker)


THINK = ("<think>", "</think>")
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'


@pytest.mark.parametrize(("text", "opened", "done", "wanted"), [
    ("plain", None, True, [Part("text", "plain")]),
    ("<think>\nhm\n</think>\n\nyes", None, True, [Part("thought", "hm"), Part("text", "yes")]),
    ("<think>\n\n</think>\n\nyes", None, True, [Part("text", "yes")]),
    ("<think>\nnot at its e", None, False, [Part("thought", "not at its e")]),
    ("hm</think>yes", THINK, False, [Part("thought", "hm"), Part("text", "yes")]),
    ("hm", THINK, False, [Part("thought", "hm")]),
    (f"Let me look. {CALL}", None, True, [Part("text", "Let me look."), Part("call", 'weather({"city": "Zürich"})')]),
    (f"<think>hm</think>{CALL}", None, True, [Part("thought", "hm"), Part("call", 'weather({"city": "Zürich"})')]),
    (CALL, None, False, [Part("text", CALL)]),
])
def test_parts_of_an_answer(text: str, opened: Any, done: bool, wanted: list[Part]) -> None:
    assert list(parts(text, opened, done=done)) == wanted


def test_a_call_that_cannot_be_read_is_shown_whole_with_what_is_wrong() -> None:
    shown = list(parts('<tool_call>{"name": "f", "argu', None, done=True))
    assert shown[0] == Part("text", '<tool_call>{"name": "f", "argu')
    assert shown[1].kind == "problem"


class Fake:
    """A speaker that says what it is told to say."""

    def __init__(self, name: str, *texts: str) -> None:
        self.name, self.note, self.system, self.texts = name, "its own template", "", list(texts)
        self.messages: list[dict[str, str]] = []
        self.heard: list[tuple[str, str]] = []

    def reset(self, system: str | None = None) -> None:
        self.heard.append(("reset", self.system))
        self.system = self.system if system is None else system

    def ask(self, role: str, text: str, how: How, told: Callable[[Said], None]) -> Said:
        self.heard.append((role, text))
        said = Said(self.texts[0], tuple(parts(self.texts[0], None, done=True)), 3)
        told(said)
        if self.texts[0] == "wait":
            while True:
                try:
                    check()
                except Interrupted:
                    return said._replace(interrupted=True)
                time.sleep(0.01)
        if self.texts[0] == "refuse":
            raise EvalError("too long")
        return said


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """`on_terminal(speakers, lines, width)`: what a terminal of that width is sent while a person types these lines."""
    monkeypatch.setenv("SFT_HOME", str(tmp_path))

    def run(found: list[Fake], typed: list[Any], width: int = 120) -> str:
        out = io.StringIO()
        shown = Console(file=out, force_terminal=True, width=width, height=20, _environ={"TERM": "xterm-256color"})
        waiting = iter(typed)

        def next_line(_: str) -> str:
            line = next(waiting, None)
            if line is None:
                raise EOFError
            return line() if callable(line) else line

        monkeypatch.setattr(screen, "console", shown)
        monkeypatch.setattr(terminal, "console", shown)
        monkeypatch.setattr(screen, "speakers", lambda *_: found)
        monkeypatch.setattr("builtins.input", next_line)
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
        run_chat(ModelSection(path="m"), None, Wanted("auto", How()), None)
        return out.getvalue()

    return run


@pytest.mark.parametrize("width", [120, 40])
def test_a_terminal_obeys_no_answer_and_no_name(on_terminal: Callable[..., str], width: int) -> None:
    hostile = [Fake(f"a{HOSTILE}", HOSTILE), Fake("b", f"<think>{HOSTILE}</think>{HOSTILE}")]
    for found in (hostile, hostile[1:]):
        sent = on_terminal(found, ["hello"], width)
        assert "\x1b]" not in sent
        assert "\x1b[2J" not in sent
        assert not {"\x07", "\x9b", "\u202e", "\u2066"} & set(sent)
        assert "[red]bold[/]" in sent.replace("\n", "")
        assert "␛" in sent
        assert "<U+202E>" in sent.replace("\n", "")


def test_a_line_of_a_megabyte_is_cut_and_told(on_terminal: Callable[..., str]) -> None:
    began = time.monotonic()
    sent = on_terminal([Fake("a", "x" * 1_000_000)], ["hello"])
    assert "(1,000,000 characters)" in sent
    assert len(sent) < 100_000
    assert time.monotonic() - began < 20


def test_commands_of_a_conversation(on_terminal: Callable[..., str]) -> None:
    one = Fake("a", CALL)
    sent = on_terminal([one], ["/help", "/system Be brief.", "", "hi", "/tool 21 degrees", " /etc is a folder",
                               "/nosuch", "/reset", "/quit", "never"])
    assert one.heard == [("reset", ""), ("reset", ""), ("user", "hi"), ("tool", "21 degrees"),
                         ("user", "/etc is a folder"), ("reset", "Be brief.")]
    assert "hand back what a tool has found" in sent
    assert "/nosuch is no command" in sent
    assert 'weather({"city": "Zürich"})' in sent
    assert "calls" in sent


def test_ctrl_c_ends_an_answer_and_at_the_prompt_the_conversation(on_terminal: Callable[..., str]) -> None:
    def later() -> str:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        return "hello"

    def at_once() -> str:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
        raise AssertionError("nobody has left")

    one, before = Fake("a", "wait"), signal.getsignal(signal.SIGINT)
    sent = on_terminal([one], [later, at_once, "never"])
    assert "(ended by you)" in sent
    assert one.heard == [("reset", ""), ("user", "hello")]
    assert signal.getsignal(signal.SIGINT) is before


def test_an_answer_that_one_of_two_cannot_give_is_heard_by_none(on_terminal: Callable[..., str]) -> None:
    one, two = Fake("a", "yes"), Fake("b", "refuse")
    one.messages = [{"role": "user", "content": "earlier"}]
    one.ask = lambda *_: one.messages.append({"role": "user", "content": "hi"})  # type: ignore[assignment,func-returns-value]
    assert "too long" in on_terminal([one, two], ["hi"])
    assert one.messages == [{"role": "user", "content": "earlier"}]


def test_scripts_get_answers_alone_or_lines_of_json(
    sft: Sft, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    done = sft("chat", folder, "--prompt", "Hi", "--prompt", "And?", "--max-tokens", "4", "--json")
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["prompt"], second["prompt"], first["model"]) == ("Hi", "And?", "talker")
    assert 0 < first["tokens"] <= 4
    monkeypatch.setenv("SFT_HOME", str(tmp_path))
    run_chat(ModelSection(path=str(folder)), None, Wanted("auto", How(4), prompts=("Hi",)), None)
    assert capsys.readouterr().out == f"{first['answer']}\n"
    wrong = sft("chat", folder, "--prompt", "word " * 5000)
    assert (wrong.returncode, "do not fit the model's window" in wrong.stderr) == (1, True), wrong.stderr


@pytest.mark.parametrize(("given", "said"), [('{"name": "f"}', "is no list of objects"), ("[", "is no JSON")])
def test_tools_are_a_list_of_schemas(tmp_path: Path, given: str, said: str) -> None:
    (tmp_path / "tools.json").write_text(given)
    with pytest.raises(ConfigError, match=said):
        _tools(tmp_path / "tools.json")
    (tmp_path / "tools.json").write_text('[{"name": "f"}]')
    assert _tools(tmp_path / "tools.json") == '[{"name": "f"}]'


@pytest.mark.parametrize(("given", "wanted"), [
    ("Grüße\nzwei\n".encode(), ("Grüße\nzwei",)), (b"\xff\xfe", "no text in"), (b"\n", "nothing to read")])
def test_a_pipe_is_one_prompt(monkeypatch: pytest.MonkeyPatch, given: bytes, wanted: Any) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    if isinstance(wanted, tuple):
        assert screen._piped() == wanted
    else:
        with pytest.raises(ConfigError, match=wanted):
            screen._piped()
