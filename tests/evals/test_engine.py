"""Whole evaluations: samples, looks, kills, floors, likelihood suites, servers and broken things."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tokenizers.processors import TemplateProcessing
from transformers import tokenization_utils_base

from eval_suites.asking import again, respondent
from eval_suites.asking import opened as asking
from eval_suites.asking.expected import expected
from eval_suites.asking.run import ChatFormat, Out, evaluate
from eval_suites.backends import remote
from eval_suites.backends.cache import Cached
from eval_suites.backends.likelihood import Texts, windows
from eval_suites.backends.local import Local
from eval_suites.results import ItemResult, SuiteResult, reason, reasons
from eval_suites.scorers.base import Score
from eval_suites.statistics.floor import changed
from eval_suites.suites.chat_item import LikelihoodItem
from eval_suites.suites.items import ChatItem, read_items
from eval_suites.suites.sample import drawn, of_part, parts
from eval_suites.suites.suite import suite
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EvalSection, Limit
from sft_core.config.file import checked
from sft_core.errors import ConfigError, EvalError
from sft_core.model.load import load_model
from sft_core.stage import write_json
from tasks.evaluate import Subject, floors
from tasks.stages import Workspace
from tests.evals.conftest import JINJA

ROOT = Path(__file__).parents[2]
FORM = ChatFormat(JINJA, ("<|im_end|>",))
SECTION = EvalSection(suites=("refusal",), limit=4, max_new_tokens=5, batch_tokens=700)


def test_samples_are_nested_and_stratified() -> None:
    strata = {"a": [f"a/{i}" for i in range(100)], "b": [f"b/{i}" for i in range(10)]}
    small, large = drawn(strata, Limit(5)), drawn(strata, Limit(20))
    assert {name: len(ids) for name, ids in large.items()} == {"a": 20, "b": 10}
    assert all(set(small[name]) < set(large[name]) for name in strata)
    assert small["a"] != strata["a"][:5]
    shares = parts(strata, 3)
    assert [len([one for one in share if one[0] == "b"]) for share in shares] == [4, 7, 10]
    assert shares[0] < shares[1] < shares[2] == {one for ids in strata.values() for one in ids}


def test_a_total_is_spread_evenly_over_the_tasks_and_nested() -> None:
    """`limit: 200` asked MMLU 57 × 200 items and GSM8K 200."""
    strata = {name: [f"{name}/{i}" for i in range(size)] for name, size in (("a", 100), ("b", 3), ("c", 50), ("d", 9))}
    found = [drawn(strata, Limit(total=total)) for total in range(1, 163)]
    counts = [{name: len(ids) for name, ids in one.items()} for one in found]
    assert [sum(one.values()) for one in counts] == list(range(1, 163))
    assert sorted(counts[19].values()) == [3, 5, 6, 6]
    assert counts[-1] == {name: len(ids) for name, ids in strata.items()}
    for small, large in zip(found, found[1:], strict=False):
        assert all(set(ids) <= set(large[name]) for name, ids in small.items())
    assert drawn(strata, Limit(total=9_999)) == strata == drawn(strata, Limit())
    parts_of = [drawn(strata, Limit(total=20, share=share)) for share in (0.25, 0.5, 1.0)]
    assert [sum(map(len, one.values())) for one in parts_of] == [2 + 2 + 2 + 1, 3 + 3 + 3 + 2, 20]
    for small, large in zip(parts_of, parts_of[1:], strict=False):
        assert all(set(ids) < set(large[name]) for name, ids in small.items())


def test_parts_keep_the_shares_of_tasks_and_never_divide_a_cluster() -> None:
    strata = {"a": [f"a/{i}" for i in range(40)], "b": [f"b/{i}" for i in range(6)], "c": ["c/0", "c/1"]}
    clusters = {one: f"{one[0]}{int(one[2:]) // 2}" for ids in strata.values() for one in ids}
    search, held = (of_part("x", strata, clusters, limit) for limit in (
        Limit(held_back=0.5), Limit(held_back=0.5, part="held_back")))
    assert len(held["a"]) == 20
    assert len(held["b"]) in (2, 4)  # of 3 clusters
    assert {clusters[one] for ids in held.values() for one in ids}.isdisjoint(
        clusters[one] for ids in search.values() for one in ids)
    whole = {name: sorted((*search.get(name, ()), *held.get(name, ()))) for name in strata}
    assert whole == {name: sorted(ids) for name, ids in strata.items()}
    assert of_part("x", strata, clusters, Limit(5)) == strata
    subjects = {f"s{i}": [f"s{i}/{n}" for n in range(3)] for i in range(57)}  # as MMLU, whose cluster is the subject
    alike = {one: name for name, ids in subjects.items() for one in ids}
    assert len(of_part("mmlu", subjects, alike, Limit(held_back=0.5, part="held_back"))) == 28
    one = {"only": ["only/0", "only/1"]}
    with pytest.raises(EvalError, match=r"suite x has no items in its part held_back: of its 1 clusters"):
        of_part("x", one, dict.fromkeys(one["only"], "same"), Limit(held_back=0.5, part="held_back"))


def test_a_limit_is_said_per_suite(tmp_path: Path, model_folder: Path) -> None:
    section = EvalSection.model_validate({"suites": ["refusal", "length"], "limit": 1, "limits": {"length": 6},
                                          "max_new_tokens": 1})
    found = run(model_folder, list(section.suites), tmp_path, section)
    assert found["length"].n == 6 == expected(suite("length"), section, None).items
    assert found["refusal"].n == len(found["refusal"].tasks())
    assert sum(item.weight for item in found["length"].items) == pytest.approx(len(read_items(suite("length"))))
    again = run(model_folder, list(section.suites), tmp_path, section.model_copy(update={"limits": {"length": 7}}))
    assert again["length"].n == 7
    with pytest.raises(ConfigError, match=r"eval.limits names \['lenght'\] \(did you mean length\?\)"):
        checked(EvalSection, suites=["length"], limits={"lenght": 3})


@pytest.fixture
def texts(tmp_path: Path) -> str:
    """A suite of the engine likelihood: short, longer than the window of 256, and an answer."""
    rows: list[dict[str, Any]] = [
        {"id": f"t{n}", "kind": "text", "cluster": f"t{n}", "text": "abc é " * n} for n in (1, 30, 200)]
    rows.append({"id": "a", "kind": "answer", "cluster": "a", "answer": "yes",
                 "messages": [{"role": "user", "content": "x"}]})
    rows.append({**rows[-1], "id": "long", "answer": "y" * 400})
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "texts.yaml"
    file.write_text(yaml.safe_dump({"about": "x", "kind": "capability", "engine": "likelihood", "scale": "log",
                                    "items": "texts.jsonl", "chat": True}))
    return str(file)


def run(folder: Path, suites: list[str], out: Path | Out, section: EvalSection = SECTION) -> dict[str, SuiteResult]:
    return evaluate(ModelSection(path=str(folder)), suites, section=section, template=FORM, mirror=None, out=out)


def test_nats_per_byte(model_folder: Path, texts: str, tmp_path: Path) -> None:
    result = run(model_folder, [texts], tmp_path, SECTION.model_copy(update={"limit": None}))["texts"]
    by_id = {item.item_id: item for item in result.items}
    loaded = load_model(ModelSection(path=str(model_folder)), mirror=None)
    ids = loaded.tokenizer.encode("abc é ")
    with torch.no_grad():
        logits = loaded.model.eval()(torch.tensor([[loaded.tokenizer.eos_token_id, *ids[:-1]]])).logits[0]
    nats = -float(logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum())
    assert by_id["t1"].score == pytest.approx(-nats / 7, abs=1e-6)
    assert by_id["t200"].metrics["tokens"] == by_id["t200"].weight == 1400  # a byte a token: none is left out
    assert by_id["a"].weight == 3
    assert by_id["long"].score is None
    assert "do not fit" in by_id["long"].why
    total = sum(item.metrics["nats"] for item in result.items if item.metrics)
    assert result.metrics()["ppl_byte"] == pytest.approx(math.exp(total / (7 * 231 + 3)))
    assert math.log(result.metrics()["ppl_byte"]) == pytest.approx(-(result.score or 0))
    assert result.scale == "log"


@pytest.mark.parametrize("length", [0, 1, 4, 5, 8, 10, 11])
def test_long_texts_are_cut_as_lm_eval_cuts_them(length: int) -> None:
    theirs = [make_disjoint_window(one) for one in get_rolling_token_windows(list(range(length)), 99, 4, 1)]
    assert [(list(one.context), list(one.continuation)) for one in windows(range(length), 99, 4)] == theirs


def test_the_last_piece_of_a_long_text_has_all_context_that_fits() -> None:
    assert windows(range(10), 99, 4) == [((99,), (0, 1, 2, 3)), ((3,), (4, 5, 6, 7)), ((5, 6, 7), (8, 9))]


def test_a_bos_that_the_tokenizer_adds_is_context_and_no_part_of_a_text(model_folder: Path) -> None:
    loaded = load_model(ModelSection(path=str(model_folder)), mirror=None)
    tokenizer = loaded.tokenizer
    tokenizer.bos_token = tokenizer.eos_token
    items = [LikelihoodItem(str(n), "text", "c", "abc é " * n, []) for n in (1, 90)]
    plain = [one for _, one in Texts(Local(loaded.model.eval(), 512), tokenizer, None).measured(items)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tokenizer.bos_token} $A", special_tokens=[(tokenizer.bos_token, tokenizer.bos_token_id)])
    assert tokenizer.encode("a")[0] == tokenizer.bos_token_id
    assert [one for _, one in Texts(Local(loaded.model.eval(), 512), tokenizer, None).measured(items)] == plain
    assert sorted(one.tokens for one in plain) == [7, 630]


def test_perplexity_is_lm_evals_own(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps({"page": "word é " * n}) + "\n" for n in (2, 9, 90)))
    (tmp_path / "pages.yaml").write_text(yaml.safe_dump({
        "task": "pages", "dataset_path": "json", "dataset_kwargs": {"data_files": {
            "test": str(tmp_path / "pages.jsonl")}}, "test_split": "test", "output_type": "loglikelihood_rolling",
        "doc_to_text": "", "doc_to_target": "{{page}}", "metric_list": [
            {"metric": "word_perplexity"}, {"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}]}))
    section = SECTION.model_copy(update={"include_path": str(tmp_path), "limit": None})
    result = run(model_folder, ["lm:pages"], tmp_path / "out", section)["lm:pages"]
    assert result.scale == "log"
    assert [item.weight for item in result.items] == [16.0, 72.0, 720.0]
    assert result.protocol["tasks"]["pages"]["metric"] == "byte_perplexity,none"  # and checked against lm-eval's own
    assert result.metrics()["ppl_byte"] == pytest.approx(math.exp(-(result.score or 0)))


def test_a_larger_limit_asks_only_what_is_new(model_folder: Path, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = Local.generate
    monkeypatch.setattr(Local, "generate", lambda self, some, stops: asked.append(len(some)) or real(self, some, stops))
    small = run(model_folder, ["refusal"], Out(tmp_path / "a", tmp_path / "cache"))["refusal"]
    larger = run(model_folder, ["refusal"], Out(tmp_path / "b", tmp_path / "cache"),
                 SECTION.model_copy(update={"limit": 6}))["refusal"]
    assert asked == [small.n, larger.n - small.n]
    assert {i.item_id: i.answer for i in small.items}.items() <= {i.item_id: i.answer for i in larger.items}.items()
    assert small.protocol_hash == larger.protocol_hash


def test_looks_end_a_suite(model_folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int] | None] = []

    def stop(partial: SuiteResult) -> bool:
        seen.append(partial.looks)
        return partial.looks == (2, 4)

    section = SECTION.model_copy(update={"looks": 4, "limit": 8})
    result = run(model_folder, ["refusal"], Out(tmp_path / "a", None, stop), section)["refusal"]
    whole = run(model_folder, ["refusal"], Out(tmp_path / "b", None, lambda _: False), section)["refusal"]
    assert seen == [(1, 4), (2, 4)]
    assert (result.looks, whole.looks, result.n * 2) == ((2, 4), (4, 4), whole.n)
    assert result.items[0].weight == 2 * whole.items[0].weight
    assert {i.item_id for i in result.items} < {i.item_id for i in whole.items}


CHILD = """
    import os, signal, sys
    from pathlib import Path
    from eval_suites.backends.local import Local
    from tests.evals.test_engine import SECTION, Out, run
    real, said = Local.generate, 0
    def generate(self, asked, stops):
        global said
        for one in real(self, asked, stops):
            said += 1
            if said == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            yield one
    Local.generate = generate
    run(Path(sys.argv[1]), ["refusal"], Out(Path(sys.argv[2]), Path(sys.argv[3])))
"""


def test_a_killed_evaluation_goes_on_where_it_stopped(model_folder: Path, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    out = Out(tmp_path / "out", tmp_path / "cache")
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(model_folder), str(out.folder), str(out.cache)], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    asked: list[int] = []
    real = Local.generate
    monkeypatch.setattr(Local, "generate", lambda self, some, stops: asked.append(len(some)) or real(self, some, stops))
    resumed = run(model_folder, ["refusal"], out)["refusal"]
    whole = run(model_folder, ["refusal"], tmp_path / "whole")["refusal"]
    assert asked == [whole.n - 3, whole.n]
    assert resumed.items == whole.items


def test_the_floor_is_zero_under_the_same_settings(model_folder: Path, texts: str, tmp_path: Path) -> None:
    section = SECTION.model_copy(update={"floor_items": 3, "suites": ("refusal", texts)})
    results = run(model_folder, ["refusal", texts], tmp_path / "out", section)
    found = again.floors(ModelSection(path=str(model_folder)), results, section, FORM, None)
    assert {name: (floor.items, floor.same) for name, floor in found.items()} == {
        "refusal": (3, 0), "texts": (3, 0)}
    assert all(floor.worst < 1e-5 for floor in found.values())


def test_another_suite_asks_for_its_own_floor_alone(
        model_folder: Path, texts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The floors of all suites were one stage, and all of them were asked again."""
    asked: list[list[str]] = []
    real = again.floors
    monkeypatch.setattr(again, "floors", lambda model, results, *rest: asked.append(list(results)) or real(
        model, results, *rest))
    template = tmp_path / "template.json"
    write_json(template, {"name": "own", "jinja": FORM.jinja, "stops": FORM.stops})
    subject, place = Subject("base", ModelSection(path=str(model_folder)), template), Workspace(tmp_path, None)
    both = SECTION.model_copy(update={"floor_items": 1, "suites": ("refusal", texts)})
    results = run(model_folder, ["refusal", texts], tmp_path / "out", both)
    alone = floors.fn(subject, {"texts": results["texts"]}, both.model_copy(update={"suites": (texts,)}), place)
    found = floors.fn(subject, results, both, place)
    assert asked == [["texts"], ["refusal"]]
    assert found["texts"] == alone["texts"]
    assert floors.fn(subject, results, both, place) == found
    assert len(asked) == 2
    unjudged = replace(results["texts"], items=tuple(one._replace(score=None) for one in results["texts"].items))
    assert floors.fn(subject, {"texts": unjudged}, both, place) == {}  # nothing can change


def test_changes_are_counted() -> None:
    def items(*scores: float | None) -> list[ItemResult]:
        return [ItemResult("s", "t", str(i), str(i), score, {}, "", "", "", "", "") for i, score in enumerate(scores)]

    assert changed(items(1, 0, None, 0.5), items(1, 0, None, 0.5)) == (0, 0.0)
    assert changed(items(1, 0, None, 0.5), items(1, 0.25, 0, 0.5)) == (2, 1.0)


def chat(item_id: str, text: str) -> ChatItem:
    return ChatItem(item_id, "benign", item_id, [{"role": "user", "content": text}], None, {"refuse": False})


def test_a_scorer_that_raises_costs_one_item() -> None:
    def score(kind: str, expect: Any, answer: str) -> Score:
        return Score({"good": 1.0}[answer], {}, "")

    made = [asking.scored("s", chat("a", "x"), asking.Answer(text, True), score) for text in ("good", "bad", "")]
    assert [item.score for item in made] == [1.0, None, None]
    assert "KeyError: 'bad'" in made[1].why
    assert "the scorer failed" in made[2].why
    assert reason(made[1].why) == "the scorer failed: KeyError: 'bad'"
    assert reason("no answer " * 40).endswith("no answer …"), "it was cut in mid-word"
    assert list(reasons(f"no answer (tries: {n}); away" for n in (1, 5)).values()) == [2]


def test_a_model_of_nan_is_named(model_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(ModelSection(path=str(model_folder)), mirror=None)
    torch.nn.init.constant_(loaded.model.model.norm.weight, 3e38)  # finite, as what is not is refused when it is loaded
    loaded.model.save_pretrained(tmp_path / "nan")
    loaded.tokenizer.save_pretrained(tmp_path / "nan")
    for name in ("refusal", "tiny_mmlu"):
        with pytest.raises(EvalError, match=rf"{name}.*not finite.*{tmp_path / 'nan'}"):
            run(tmp_path / "nan", [name], tmp_path / "out")


def test_transformers_says_nothing_of_long_prompts(model_folder: Path) -> None:
    """They are cut or left unscored, and counted, before they are asked."""
    loaded = load_model(ModelSection(path=str(model_folder)), mirror=None)
    loaded.tokenizer.model_max_length = 4
    with mock.patch.object(tokenization_utils_base.logger, "warning") as warned:
        loaded.tokenizer("x" * 20)
        assert warned.call_count == 1
        loaded.tokenizer.deprecation_warnings.clear()
        respondent.respondent_of(loaded.model, loaded.tokenizer, FORM, 64)
        loaded.tokenizer("x" * 20)
        assert warned.call_count == 1


class Server:
    """Answers with the last words of a chat, and fails on one item."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, messages: Any, *, max_tokens: int, tools: Any = None) -> Any:
        self.asked += 1
        if messages[-1]["content"] == "fail":
            raise EvalError("HTTP 500")
        return type("Reply", (), {"text": messages[-1]["content"], "completion_tokens": 2,
                                  "finish_reason": "length" if max_tokens < 3 else "stop"})


def test_a_server_answers_once(tmp_path: Path) -> None:
    server, where = Server(), remote.endpoint_of("http://127.0.0.1:1/v1#m")
    items = [chat(str(i), text) for i, text in enumerate(("one", "fail", "two"))]
    for count in (3, 4):  # what failed is asked again
        found = asking.answer_all(remote.Remote(server, where, tmp_path), items, 9, "test")
        assert [(one.text, one.stopped) for one in found] == [("one", True), (None, False), ("two", True)]
        assert "HTTP 500" in found[1].why
        assert server.asked == count
    assert not asking.answer_all(remote.Remote(server, where, None), items, 2, "test")[0].stopped


def test_a_server_gives_no_likelihoods(tmp_path: Path) -> None:
    model = ModelSection(path="http://127.0.0.1:1/v1#m")
    with pytest.raises(EvalError, match="tiny_mmlu.*answers only"):
        evaluate(model, ["tiny_mmlu"], section=SECTION, template=None, mirror=None, out=tmp_path)
    with pytest.raises(EvalError, match="names no model"):
        respondent.identity_of(ModelSection(path="http://127.0.0.1:1/v1"), None)


def test_results_say_who_computed_them(model_folder: Path, tmp_path: Path) -> None:
    result = run(model_folder, ["refusal"], tmp_path)["refusal"]
    assert result.backend.startswith("transformers 5")
    assert "cpu, float32" in result.backend
    assert Cached(Local(load_model(ModelSection(path=str(model_folder)), mirror=None).model, 9), None,
                  "x").name == result.backend
