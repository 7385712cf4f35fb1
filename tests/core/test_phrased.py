"""Plain rows of files all the way to examples: phrased, shown to one another, held out for evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from transformers import PreTrainedTokenizerFast

from eval_suites.scorers.registry import score
from eval_suites.suites.items import read_items
from eval_suites.suites.suite import suite
from sft_core.config.data import DataSection, TemplateSection
from sft_core.data.curate.chain import Wanted, curate_here
from sft_core.data.curate.items import EvalItem
from sft_core.data.examples import load_examples
from sft_core.data.ledger import Ledger
from sft_core.data.prepare import prepare
from sft_core.data.shards import load_rejected
from sft_core.errors import DataError
from sft_core.templates.render import IGNORE

KIND = {"task": "sentiment", "labels": {"label": {0: "unkind", 1: "kind"}}, "phrasings": [
    {"prompt": "Is this kind? {text}", "answer": "{label}"},
    {"prompt": "{text}\nKind or unkind?", "answer": "It is {label}."}]}
WORDS = ("river", "hill", "lantern", "bread", "winter", "copper", "violin", "harbour", "meadow", "thunder", "pepper")


def reviews(count: int) -> list[dict[str, Any]]:
    return [{"text": f"the {WORDS[n % 11]} beside {WORDS[n // 11 % 11]} number {n}", "label": n % 2}
            for n in range(count)]


def run(out: Path, tokenizer: PreTrainedTokenizerFast, *sources: dict[str, Any], items: tuple[EvalItem, ...] = (),
        seed: int = 0, **settings: Any) -> Ledger:
    data = DataSection.model_validate({"max_tokens": 4096, "validation_share": 0.3, "duplicates": {"near": False},
                                       **settings, "sources": sources})
    out.mkdir()
    return prepare(data, TemplateSection(name="chatml"), tokenizer=tokenizer, replay=(), eval_items=items, seed=seed,
                   curated=curate_here(data, items, out.with_name(f"{out.name}-curated"), seed=seed), mirror=None,
                   out=out)


def trained(folder: Path, half: str) -> list[tuple[str, str]]:
    """Text of the examples of a half, and what of it is trained."""
    return [(bytes(one for one in e.input_ids if one < 256).decode(),
             bytes(one for one in e.targets if one != IGNORE and one < 256).decode())
            for e in load_examples(folder / f"{half}.parquet")]


def test_rows_become_chats_and_no_row_of_validation_is_shown(tmp_path: Path, tokenizer: PreTrainedTokenizerFast,
                                                             write_jsonl: Callable[..., Path]) -> None:
    path = write_jsonl([*reviews(90), {"text": "odd", "label": 7}, {"text": None, "label": 1}])
    ledger = run(tmp_path / "out", tokenizer, {"path": str(path), **KIND, "shots": 2}, seed=3)
    (count,) = ledger.sources
    assert (count.read, count.kept, dict(count.rejected)) == (92, 90, {"missing_column": 1, "unknown_label": 1})
    assert count.formats == ("messages",)
    assert 10 < count.validation < 50
    assert [one.detail for one in load_rejected(tmp_path / "out" / "rejected.parquet")] == [
        "label is 7, which labels does not name; it names 0, 1", "no text, which a phrasing names"]
    both = {half: trained(tmp_path / "out", half) for half in ("train", "validation")}
    number = {half: {text.split("number ")[-1].split()[0] for text, _ in rows} for half, rows in both.items()}
    for text, answer in both["train"] + both["validation"]:
        assert answer.strip() in ("kind", "unkind", "It is kind.", "It is unkind.")
        shown = [part.split()[0] for part in text.split("number ")[1:-1]]
        assert len(shown) == 2
        assert not number["validation"] & set(shown)


def test_rows_are_read_anew_for_another_seed_only_where_others_are_shown(write_jsonl: Callable[..., Path]) -> None:
    path = write_jsonl(reviews(9))

    def stamp(seed: int, share: float, **source: Any) -> str:
        data = DataSection.model_validate({"max_tokens": 99, "validation_share": share, "sources": [
            {"path": str(path), **KIND, **source}]})
        return Wanted(data, seed, ["digest"], None, tuple, path.parent, None).stamp()

    plain = stamp(0, 0.1)
    assert plain == stamp(1, 0.1) == stamp(0, 0.2)
    assert len({plain, stamp(0, 0.1, shots=1), stamp(1, 0.1, shots=1), stamp(0, 0.2, shots=1),
                stamp(0, 0.1, phrasings=KIND["phrasings"][:1])}) == 5


def test_word_problems(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, real_data: Callable[[str], Path]) -> None:
    path = real_data("math_word_problems/svamp/SVAMP.json")
    source = {"path": str(path), "limit": 200, "shots": 1, "phrasings": [
        {"prompt": "{Body}. {Question}", "answer": "{Answer}"}]}
    ledger = run(tmp_path / "out", tokenizer, source)
    assert (ledger.read, ledger.unusable) == (200, 0)
    assert sum(ledger.reasons().values()) < 20
    rows = {f"{one['Body']}. {one['Question']}": str(int(one["Answer"])) for one in json.loads(path.read_text())[:200]}
    for text, answer in trained(tmp_path / "out", "train"):
        shown, own = (part.partition("\nassistant\n")[0] for part in text.split("user\n")[1:])
        assert rows[own.strip()] == answer.strip()
        assert shown != own


@pytest.fixture
def two(tmp_path: Path, write_jsonl: Callable[..., Path]) -> list[dict[str, Any]]:
    """A task that is held out, and one that trains."""
    chats = [{"prompt": f"{n} and {n}?", "completion": f"{n + n}"} for n in range(40)]
    return [{"path": str(write_jsonl(reviews(12), "reviews.jsonl")), **KIND},
            {"path": str(write_jsonl(chats, "sums.jsonl")), "task": "sums"}]


def test_held_out_tasks_are_items_of_a_suite_and_do_not_train(tmp_path: Path, tokenizer: PreTrainedTokenizerFast,
                                                              two: list[dict[str, Any]]) -> None:
    out = tmp_path / "out"
    ledger = run(out, tokenizer, *two, held_out_tasks=["sentiment"])
    held, trains = ledger.sources
    assert (held.read, held.kept, held.held_out, held.examples) == (12, 12, 12, 0)
    assert (trains.kept, trains.held_out) == (40, 0)
    assert not [text for half in ("train", "validation") for text, _ in trained(out, half) if "beside" in text]
    (tmp_path / "new_task.yaml").write_text("about: A task that was not trained.\nkind: alignment\nengine: generate\n"
                                            f"items: {out / 'held_out.jsonl'}\nmax_new_tokens: 8\n")
    items = read_items(suite(str(tmp_path / "new_task.yaml")))
    assert [(one.task, score(one.kind, one.expect, str(one.reference)).value) for one in items] == [
        ("sentiment", 1.0)] * 12
    assert all("beside" in one.messages[-1]["content"] for one in items)
    assert {one.reference for one in items} <= {"kind", "unkind", "It is kind.", "It is unkind."}
    assert len({one.cluster for one in items}) > 1

    again = run(tmp_path / "again", tokenizer, *two, held_out_tasks=["sentiment"], items=tuple(
        EvalItem("new_task", one.item_id, one.messages[-1]["content"]) for one in items))
    assert again.sources[0].held_out == 12, "an item that is kept for evaluation was taken out as one of it"


def test_what_calls_tools_is_no_item(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, two: list[dict[str, Any]],
                                     write_jsonl: Callable[..., Path]) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "function": {"name": "look", "arguments": {"at": 1}}}]}
    asked = [[{"role": "user", "content": f"Look at {n}."}, call if n else {"role": "assistant", "content": "yes"}]
             for n in range(2)]
    path = write_jsonl([{"messages": one} for one in asked], "calls.jsonl")
    ledger = run(tmp_path / "out", tokenizer, {"path": str(path), "task": "calls"}, two[1], held_out_tasks=["calls"])
    assert (ledger.sources[0].held_out, dict(ledger.sources[0].rejected)) == (1, {"no_item": 1})
    assert len((tmp_path / "out" / "held_out.jsonl").read_text().splitlines()) == 1


def test_a_column_that_is_not_there(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, two: list[dict[str, Any]]
                                    ) -> None:
    wrong = {**two[0], "labels": {}, "phrasings": [{"prompt": "{body}", "answer": "{label}"}]}
    with pytest.raises(DataError, match="of reviews.jsonl names the column body, and its rows have text, label"):
        run(tmp_path / "out", tokenizer, wrong, two[1])


@pytest.mark.parametrize(("source", "held", "said"), [
    ({}, ["nli"], "held_out_tasks names nli, which is the task of no source; there are sentiment, sums"),
    ({}, ["sums", "sentiment"], "nothing is left to train on; leave one out"),
    ({"format": "messages"}, [], "format says how a chat is read, and phrasings make chats of rows that are none"),
    ({"columns": {"output": "label"}}, [], "columns says how a chat is read"),
    ({"labels": {"colour": {0: "red"}}}, [], "labels names the column colour, which no phrasing does"),
])
def test_settings_that_contradict_each_other(two: list[dict[str, Any]], source: dict[str, Any], held: list[str],
                                             said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DataSection.model_validate({"max_tokens": 99, "sources": [two[0] | source, two[1]], "held_out_tasks": held})
