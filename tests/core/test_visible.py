"""What others wrote is shown and not obeyed: on the terminal, in logs, in errors."""

import json
import logging

import pytest

from flows import console
from flows.logs import tame
from sft_core.errors import DataError
from sft_core.visible import are_numbers, shortened, visible

HOSTILE = "a\x1b[31mred\x07 \u202egpj.exe\u2066 b\r c\x9b2J \u200bd \ud83d [bold]x[/bold] [/nothing]"
OBEYED = ("\x1b", "\x07", "\u202e", "\u2066", "\r", "\x9b", "\u200b", "\ud83d")


def harmless(text: str) -> bool:
    return not any(one in text for one in OBEYED) and text.encode("utf-8") != b""


def test_what_a_terminal_obeys_is_seen_and_letters_stay() -> None:
    assert visible(HOSTILE) == ("a␛[31mred␇ <U+202E>gpj.exe<U+2066> b␍ c<U+009B>2J <U+200B>d <U+D83D> [bold]x[/bold] "
                                "[/nothing]")
    for kept in ("plain", "tab\tand\nline", "精度 שלום مرحبا नमस्ते é", "👩‍👩‍👧 ✔️", "می‌خواهم"):
        assert visible(kept) == kept


def test_a_long_text_is_its_beginning_and_says_so() -> None:
    assert shortened("x" * 1_000_000, 10) == "xxxxxxxxxx… (1,000,000 characters)"
    assert shortened("x" * 10, 10) == "x" * 10


@pytest.mark.parametrize("show", [
    lambda text: console.table(text, [{"a": text, text: 1}]), lambda text: console.lines(text),
    lambda text: console.gate("fail", text)])
def test_the_terminal_shows_markup_and_controls_as_they_are(show: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(show)
    show(HOSTILE)
    said = capsys.readouterr().out
    assert harmless(said)
    assert "[bold]x[/bold] [/nothing]" in " ".join(said.split())


def test_json_means_what_it_meant_and_is_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    console.as_json({"a": HOSTILE, "b": "精度 \U000e0041"})
    said = capsys.readouterr().out
    assert harmless(said)
    assert "精度" in said
    assert json.loads(said) == {"a": HOSTILE, "b": "精度 \U000e0041"}


def test_a_cell_of_a_megabyte_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    console.table("t", [{"a": "x" * 1_000_000}])
    console.lines("y" * 1_000_000)
    said = capsys.readouterr().out
    assert len(said) < 200_000
    assert said.count("1,000,000") == 2


def test_errors_and_logs_hold_nothing_that_is_obeyed(caplog: pytest.LogCaptureFixture,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    assert harmless(str(DataError(HOSTILE)))
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    before = logging.getLogRecordFactory()
    try:
        tame()
        monkeypatch.setattr(logging.getLogger("sft"), "propagate", True)
        logging.getLogger("sft").warning("%s", HOSTILE)
    finally:
        logging.setLogRecordFactory(before)
    assert harmless(caplog.messages[0])
    assert "[bold]x[/bold]" in caplog.messages[0]


@pytest.mark.parametrize(("cells", "numbers"), [
    (["95.8", "–", "ppl 3.114", "-10.8 to +21.1", "1 / 0", "0.0 → 17.5 %", "4.3 s", ""], True),
    (["65a91673ccc6ce17", "41928716"], False), (["52 comparisons over 11 probes are the same"], False),
    (["0.5", "not measured"], False)])
def test_words_and_hashes_of_a_column_are_no_numbers(cells: list[str], numbers: bool) -> None:
    assert are_numbers(cells) is numbers
