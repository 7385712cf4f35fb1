"""Raw text becomes sections of documents, and conversations their last answers; nothing is lost or made up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval_suites.suites.items import read_texts
from eval_suites.suites.readers.text import (
    BLOCK_BYTES,
    LONGEST_ARTICLE,
    MOST_BYTES,
    SECTION_BYTES,
    read_answers,
    read_text,
)
from eval_suites.suites.suite import suite
from sft_core.errors import EvalError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def plain(text: str) -> str:
    return "".join(text.split())


def test_articles_are_documents_and_no_text_is_lost(tmp_path: Path) -> None:
    parts = ["Before any title.", " = First = \n\n" + "\n\n".join("a b c. " * 60 for _ in range(12)),
             " = = Section = = \n\nStill the first.", " = Second = \n\nShort."]
    (tmp_path / "t.txt").write_text("\n\n".join(parts) + "\n")
    items = read_text(tmp_path / "t.txt")
    assert plain("".join(item.text for item in items)) == plain("".join(parts))
    assert [item.cluster for item in items if "Still" in item.text] == ["document 1"]
    assert len({item.cluster for item in items}) == 3
    assert max(len(item.text) for item in items) < SECTION_BYTES + 500
    assert len({item.item_id for item in items}) == len(items)


def test_a_long_file_is_thinned_evenly(tmp_path: Path) -> None:
    paragraphs = [f"{number} " + "word " * 300 for number in range(1000)]
    (tmp_path / "t.txt").write_text("\n\n".join(paragraphs))
    items = read_text(tmp_path / "t.txt")
    size = sum(len(item.text) for item in items)
    assert len((tmp_path / "t.txt").read_text()) > LONGEST_ARTICLE
    assert 0.8 * MOST_BYTES < size < 1.2 * MOST_BYTES + BLOCK_BYTES
    numbers = [int(line.split()[0]) for item in items for line in item.text.split("\n\n")]
    assert numbers == sorted(numbers)
    assert min(numbers) == 0
    assert max(numbers) > 800
    assert len({item.cluster for item in items}) > 10


def test_wikitext_is_read() -> None:
    if not (DATA / "wikitext2").is_dir():
        pytest.skip(f"{DATA}/wikitext2 is not here")
    items = read_texts(suite("perplexity_text"), data_path=DATA)
    assert len({item.cluster for item in items}) >= 15
    assert 200_000 < sum(len(item.text.encode()) for item in items) < 400_000
    assert len({item.cluster for item in read_text(DATA / "wikitext2" / "test.txt")}) >= 10


ROWS = [
    {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"},
                  {"role": "assistant", "content": "one"}, {"role": "user", "content": "and?"},
                  {"role": "assistant", "content": "two"}, {"role": "user", "content": "bye"}]},
    {"instruction": "add", "input": "1 2", "output": "3"}, {"instruction": "add", "output": "4"},
    {"messages": [{"role": "user", "content": "q"}]}, {"instruction": "x", "output": " "},
]


@pytest.mark.parametrize("lines", [True, False])
def test_the_last_answer_is_measured_behind_what_came_before(tmp_path: Path, lines: bool) -> None:
    text = "\n".join(json.dumps(row) for row in ROWS) if lines else json.dumps(ROWS)
    (tmp_path / "a.json").write_text(text)
    items = read_answers(tmp_path / "a.json")
    assert [item.text for item in items] == ["two", "3", "4"]
    assert [turn["role"] for turn in items[0].messages] == ["system", "user", "assistant", "user"]
    assert items[1].messages == [{"role": "user", "content": "add\n\n1 2"}]
    assert {item.kind for item in items} == {"answer"}


@pytest.mark.parametrize(("text", "said"), [
    ('{"messages": 3}', "a.json:1 is no conversation"), ('{"prompt": "x"}', "a.json:1 is no conversation"),
    ("[{]", "a.json is not JSON"), ('[{"instruction": "x"}]', "row 0 is no conversation"),
    ("hello", "a.json:1 is not JSON")])
def test_other_files_are_refused_by_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(EvalError, match=said):
        read_answers(tmp_path / "a.json")
