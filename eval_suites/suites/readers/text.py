"""Raw text in sections, and answers with their questions, for perplexity."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval_suites.suites.chat_item import LikelihoodItem, parse_lines
from sft_core.errors import EvalError

TITLE = re.compile(r"^ ?= (?!=)([^\n]+?) = ?$", re.MULTILINE)
"""Title of an article, as WikiText writes it; ` = = Section = = ` is none."""
PARAGRAPHS = re.compile(r"\n[ \t]*\n")
SECTION_BYTES = 2_048
"""A section ends with the paragraph that reaches this."""
LONGEST_ARTICLE = 65_536
"""Bytes; more than that without a title is taken for several documents."""
BLOCK_BYTES = 16_384
"""Where titles are missing, what stands within so many bytes counts as one document."""
MOST_BYTES = 262_144
"""Of a longer file whole documents are left out, evenly, until about this much is left."""


def read_text(file: Path) -> list[LikelihoodItem]:
    """Sections of a raw text; cluster is the article, or where titles are missing a block of the file.

    Raises:
        OSError: the file is missing.
    """
    text = file.read_text(encoding="utf-8")
    documents = [document for article in _articles(text) for document in _documents(article)]
    stride = max(1, -(-len(text.encode()) // MOST_BYTES))
    return [LikelihoodItem(f"{at:04d}-{number:03d}", "text", f"document {at}", section, [])
            for at, document in list(enumerate(documents))[::stride]
            for number, section in enumerate(_sections(document))]


def _articles(text: str) -> list[str]:
    """The text cut before every title."""
    starts = [0, *(found.start() for found in TITLE.finditer(text)), len(text)]
    return [text[start:end] for start, end in zip(starts, starts[1:], strict=False) if text[start:end].strip()]


def _documents(article: str) -> list[str]:
    short = len(article.encode()) <= LONGEST_ARTICLE
    return [article] if short else list(_filled(PARAGRAPHS.split(article), BLOCK_BYTES))


def _sections(document: str) -> Iterator[str]:
    yield from _filled(PARAGRAPHS.split(document), SECTION_BYTES)


def _filled(paragraphs: list[str], size: int) -> Iterator[str]:
    """Paragraphs joined until they hold `size` bytes; what is blank is left out."""
    held: list[str] = []
    for paragraph in (one.strip() for one in paragraphs):
        if paragraph:
            held.append(paragraph)
            if len("\n\n".join(held).encode()) >= size:
                yield "\n\n".join(held)
                held = []
    if held:
        yield "\n\n".join(held)


def read_answers(file: Path) -> list[LikelihoodItem]:
    """The last assistant turn of every conversation, behind what comes before it; JSON (a list) or JSONL.

    Rows are {"messages": [...]} or {"instruction", "input"?, "output"}. Rows without an answer are left out; cluster is
    the question, so that answers to the same one count together.

    Raises:
        OSError: the file is missing.
        EvalError: it is neither, or a row is of another shape.
    """
    text = file.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        try:
            rows = [(f"{file}, row {number}", row) for number, row in enumerate(json.loads(text))]
        except json.JSONDecodeError as error:
            raise EvalError(f"{file} is not JSON: {error}") from error
    else:
        rows = parse_lines(text, file)
    return [item for number, (where, row) in enumerate(rows) if (item := _answer(number, where, row)) is not None]


def _answer(number: int, where: str, row: Any) -> LikelihoodItem | None:
    messages = _conversation(where, row)
    while messages and messages[-1]["role"] != "assistant":
        messages = messages[:-1]
    if len(messages) < 2 or not messages[-1]["content"].strip():
        return None
    *before, answer = messages
    return LikelihoodItem(f"{number:05d}", "answer", before[-1]["content"], answer["content"], before)


def _conversation(where: str, row: Any) -> list[dict[str, str]]:
    try:
        if "messages" in row:
            return [{"role": str(turn["role"]), "content": str(turn["content"] or "")} for turn in row["messages"]]
        asked = "\n\n".join(part for part in (row["instruction"], row.get("input")) if part)
        return [{"role": "user", "content": asked}, {"role": "assistant", "content": str(row["output"])}]
    except (KeyError, TypeError, AttributeError) as error:
        raise EvalError(f"{where} is no conversation ({error!r}); rows hold messages, or instruction and output"
                        ) from error
