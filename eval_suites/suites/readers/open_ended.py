"""MT-Bench's questions with its reference answers, as FastChat ships them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eval_suites.suites.chat_item import ChatItem, parse_lines
from sft_core.errors import EvalError


def read_mt_bench(folder: Path) -> list[ChatItem]:
    """`question.jsonl`, and GPT-4's reference answers of maths, coding and reasoning where `reference_answer/` is.

    Raises:
        EvalError: a row is not as FastChat writes it.
        OSError: the questions are missing.
    """
    references = {}
    file = folder / "reference_answer" / "gpt-4.jsonl"
    try:
        if file.exists():
            references = {row["question_id"]: list(row["choices"][0]["turns"]) for _, row in _rows(file)}
        return [_item(row["question_id"], row["category"], row["turns"], references.get(row["question_id"]))
                for _, row in _rows(folder / "question.jsonl")]
    except (LookupError, TypeError) as error:
        raise EvalError(f"{folder} is not MT-Bench as FastChat ships it: {error!r}") from error


def _rows(file: Path) -> list[tuple[str, Any]]:
    return parse_lines(file.read_text(encoding="utf-8"), file)


def _item(number: int, category: str, turns: list[str], reference: list[str] | None) -> ChatItem:
    expect = {"questions": turns} | ({"reference": reference} if reference else {})
    return ChatItem(str(number), "open", str(number), [{"role": "user", "content": turn} for turn in turns], None,
                    expect, task=category)
