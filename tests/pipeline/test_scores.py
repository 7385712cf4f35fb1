"""Scores of rows by the base and by a judge behind a real server, from a configuration to what is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sft_core.config.experiment import ExperimentConfig
from sft_core.data.curate.curated import Curated, curated_shards
from sft_core.data.shards import load_rejected
from sft_core.errors import EvalError, ModelError
from sft_core.stage import read_json
from sft_core.tiny.paths import BASE_FOLDER
from tasks.curate import curation
from tasks.data_view import parts
from tasks.needs import data_lacks
from tasks.stages import Done, Workspace
from tests.evals.fake_server import serve

ANSWERS = [*["The harbour is where ships lie."] * 2, *(f"Number {n} it is, and no other." for n in range(9)),
           "As an AI language model, I cannot say."]
COPY, REFUSAL = 1, len(ANSWERS) - 1
"""Rows that go before a judge is asked."""


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home", None)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., ExperimentConfig]:
    rows = tmp_path / "rows.jsonl"
    questions = ["What is a harbour?"] * 2 + [f"Which number is {n}?" for n in range(len(ANSWERS) - 2)]
    rows.write_text("".join(json.dumps({"prompt": f"{asked} Write to jo{at}@mail.org." if at > 1 else asked,
                                        "completion": said}) + "\n"
                            for at, (asked, said) in enumerate(zip(questions, ANSWERS, strict=True))))

    def make(scores: dict[str, Any], **data: Any) -> ExperimentConfig:
        return ExperimentConfig.model_validate({
            "name": "x", "model": {"path": "tiny"}, "train": {"epochs": 1, "optim": {"lr": 1e-3}},
            "eval": {"suites": ["tiny_mmlu"]}, "data": {
                "sources": [{"path": str(rows)}], "max_tokens": 128, "decontaminate": "off", "processes": 1,
                "duplicates": {"near": False}, "quality": {"drop": ["refusal"]}, "scores": scores, **data}})

    return make


def kept(done: Done) -> list[Curated]:
    return [one for shard in curated_shards(done.folder) for one in shard]


def judge(url: str, **more: Any) -> dict[str, Any]:
    return {"judge": {"endpoint": {"url": url, "model": "j", "retries": 0}, **more}}


def graded(body: dict[str, Any], _: int) -> str:
    """Longer answers are better."""
    said = body["messages"][0]["content"].split("<assistant_turn_1>\n")[1].split("\n</")[0]
    return f"It is fine.\n[[{min(10, len(said) // 4)}]]"


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    with serve(graded) as served:
        yield served


@pytest.mark.parametrize("by", ["perplexity", "ifd"])
@pytest.mark.parametrize("prefer", ["high", "low"])
def test_rows_are_chosen_by_what_the_base_finds(config: Any, place: Workspace, by: str, prefer: str) -> None:
    every = kept(curation(config({"measure": ["perplexity", "ifd"]}), place).done)
    assert len(every) == 10
    assert all(one.perplexity and one.ifd and one.judge is None for one in every)
    done = curation(config({"measure": [by]}, select={"n": 3, "by": by, "prefer": prefer}), place).done
    ordered = sorted(every, key=lambda one: getattr(one, by), reverse=prefer == "high")[:3]
    assert {one.conversation.origin.line for one in kept(done)} == {one.conversation.origin.line for one in ordered}
    said = done.result["selection"]
    median = said["selected"]["median"][by]
    assert median == pytest.approx(getattr(ordered[1], by))
    assert (median > said["random"]["median"][by]) == (prefer == "high") or median == said["random"]["median"][by]


def test_a_bound_that_changes_measures_nothing_again(config: Any, place: Workspace, monkeypatch: pytest.MonkeyPatch
                                                     ) -> None:
    every = kept(curation(config({"measure": ["perplexity", "ifd"]}), place).done)
    middle = sorted(one.perplexity for one in every)[5]
    monkeypatch.setattr("tasks.scores._opened", lambda *_: pytest.fail("the model was loaded again"))
    done = curation(config({"measure": ["perplexity", "ifd"], "keep": {"perplexity": [middle, None]}}), place).done
    assert sorted(one.perplexity for one in kept(done)) == sorted(one.perplexity for one in every)[5:]
    gone = [one for one in load_rejected(done.folder / "rejected.parquet") if one.why == "score"]
    assert len(gone) == 5
    assert all(f"below {middle:g}" in one.detail for one in gone)
    (source,) = done.result["sources"]
    assert source["curated"] == {"exact_duplicate": 1, "refusal": 1, "score": 5}
    assert source["steps"][-1] == {"name": "scores", "settings": {"perplexity": [middle, None]}, "rows_in": 10,
                                   "rows_out": 5, "changed": 0, "reasons": {"score": 5}}
    assert source["scores"]["perplexity"]["read"]["rows"] == 12
    assert source["scores"]["perplexity"]["kept"]["lowest"] == pytest.approx(middle)
    (table,) = [part for part in parts(done.result) if part.title.startswith("Scores")]
    assert [(row["score"], row["of"], row["rows"]) for row in table.rows] == [
        (name, of, rows) for name in ("quality", "perplexity", "ifd") for of, rows in (("rows read", "12"),
                                                                                       ("rows kept", "5"))]


def test_another_model_measures_anew(config: Any, place: Workspace, tmp_path: Path) -> None:
    first = kept(curation(config({"measure": ["ifd"]}), place).done)
    other = tmp_path / "other"
    shutil.copytree(BASE_FOLDER, other)
    same = kept(curation(config({"measure": ["ifd"], "model": str(other)}), place).done)
    assert [one.ifd for one in same] == [one.ifd for one in first]
    tokens = read_json(other / "tokenizer_config.json")
    (other / "tokenizer_config.json").write_text(json.dumps(tokens | {
        "chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
                         "{% if add_generation_prompt %}assistant: {% endif %}"}))
    differs = kept(curation(config({"measure": ["ifd"], "model": str(other)}), place).done)
    assert [one.ifd for one in differs] != [one.ifd for one in first]
    gone = config({"measure": ["ifd"], "model": str(tmp_path / "nowhere")})
    assert [lack.key for lack in data_lacks(gone, place)] == [("data", "scores", "model")]
    with pytest.raises(ModelError):
        curation(gone, place)


def test_only_what_is_left_is_judged_and_nothing_twice(config: Any, place: Workspace, server: Any) -> None:
    url, seen = server
    done = curation(config(judge(url), select={"n": 3, "by": "judge"}, pii={"action": "redact"}), place).done
    asked = [body["messages"][0]["content"] for body in seen]
    assert len(asked) == 10
    assert not any(ANSWERS[REFUSAL] in one for one in asked)
    assert sum(ANSWERS[COPY] in one for one in asked) == 1
    assert not any("@mail.org" in one for one in asked)
    assert sum("[EMAIL" in one for one in asked) == 9
    best = kept(done)
    assert min(one.judge for one in best) == 7
    assert len(best) == 3
    assert done.result["judge"] == {"asked": 10, "graded": 10, "not answered": 0, "no grade in the reply": 0}
    assert done.result["selection"]["selected"]["median"]["judge"] == 7
    strict = config(judge(url) | {"keep": {"judge": [None, 6]}}, pii={"action": "redact"})
    assert [one.judge for one in kept(curation(strict, place).done)] == []
    assert len(seen) == 10, "replies are kept"
    curation(config(judge(url), quality={"drop": []}, pii={"action": "redact"}), place)
    assert len(seen) == 11, "one row more is left"


def test_a_judge_off_format(config: Any, place: Workspace) -> None:
    def say(body: dict[str, Any], number: int) -> Any:
        if "number is 1?" in body["messages"][0]["content"]:
            return "I would rather not."
        return (500, {}, "broken") if "number is 2?" in body["messages"][0]["content"] else graded(body, number)

    with serve(say) as (url, seen):
        with pytest.raises(EvalError, match="2 of 10 rows .* have no grade, 1 of them because it did not answer"):
            curation(config(judge(url)), place)
        once = len(seen)
        loose = judge(url, max_ungraded_share=0.2)
        every = kept(curation(config(loose), place).done)
        assert len(seen) == once + 1, "the failed request is made again, what was said is kept"
        assert sorted(one.conversation.origin.line for one in every if one.judge is None) == [4, 5]
        first = curation(config(loose, select={"n": 8, "by": "judge"}), place).done
        assert all(one.judge for one in kept(first)), "rows without a grade come last"
        bound = curation(config(loose | {"keep": {"judge": [1, None]}}), place).done
        gone = {one.origin.line: one.detail for one in load_rejected(bound.folder / "rejected.parquet")
                if one.why == "score"}
        assert gone.keys() == {4, 5}
        assert gone[4].startswith("no grade of the judge: the judge gave no verdict")
        assert gone[5].startswith("no grade of the judge: the judge did not answer")
        (source,) = bound.result["sources"]
        assert source["rows"] == len(kept(bound)) + sum(source["curated"].values())
