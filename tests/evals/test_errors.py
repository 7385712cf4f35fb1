"""The contract of errors: whatever breaks, in whatever is asked, is never a wrong answer and never goes unsaid.

Every path (a suite kind and who answers it) runs whole, with an error on one of its ten items, and some with one on
eight of them. The weights are broken for one byte, `~`, and servers, scorers and judges fail where they see it. That a
killed evaluation goes on where it stopped is in test_engine.py, of a server in tests/pipeline/test_server_model.py.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from eval_suites.asking import respondent
from eval_suites.asking.opened import open_suite
from eval_suites.asking.run import ChatFormat, evaluate
from eval_suites.backends.cache import Cached
from eval_suites.backends.endpoint import Endpoint
from eval_suites.backends.remote import endpoint_of
from eval_suites.backends.vllm import Vllm
from eval_suites.judge.pairwise import judge_pairs
from eval_suites.judge.refusal import refusal_scorer, rescore
from eval_suites.judge.single import judge_single
from eval_suites.judge.talk import judge_at
from eval_suites.results import SuiteResult, tally, write_results
from eval_suites.statistics.robustness import drops
from eval_suites.suites.suite import suite
from eval_suites.verdict.night import weigh
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EndpointSection, EvalSection, GateSection, JudgeSection
from sft_core.errors import EvalError
from sft_core.model.load import load_model
from tasks.metrics import verdict_metrics
from tasks.pages.report import write_report_page
from tasks.show import check_measured, remarks
from tasks.verdict import compared, listed, reach_verdict
from tests.evals.conftest import JINJA

FORM = ChatFormat(JINJA, ("<|im_end|>",))
ITEMS = 10
NAN = "logits are not finite"
Failure = Any
"""What a server says where it sees the mark: text, (status, headers, body), or a function that gives one of them."""


def beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


serve = beside("fake_server").serve
Engine = beside("test_window").Engine


def broken(*args: Any, **kwargs: Any) -> Any:
    """`load_model`, and the weights are no numbers for one byte: as where a precision overflows."""
    loaded = load_model(*args, **kwargs)
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[loaded.tokenizer.convert_tokens_to_ids("~")] = float("nan")
    return loaded


class Room(NamedTuple):
    """Where a path runs: `marked` of its items hold the mark; `failure` is None where nothing is to break."""

    folder: Path
    model: Path
    marked: int
    failure: Failure

    def text(self, number: int) -> str:
        return f"{'~ ' if number < self.marked else ''}number {number}"

    def suite(self, rows: list[dict[str, Any]], **more: Any) -> str:
        """A suite of these rows; its path."""
        (self.folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (self.folder / "own.yaml").write_text(yaml.safe_dump({
            "about": "x", "kind": "alignment", "engine": "generate", "items": "own.jsonl", "max_new_tokens": 4,
            **more}))
        return str(self.folder / "own.yaml")

    def ask(self, reference: str, model: str, form: ChatFormat | None = FORM) -> SuiteResult:
        section = EvalSection(suites=(reference,), batch_tokens=700, include_path=str(self.folder))
        how = {"retries": 0, "timeout_s": 2.0 if self.failure is late else 30.0}
        with mock.patch.multiple(respondent, load_model=self.load,
                                 endpoint_of=lambda url: endpoint_of(url).model_copy(update=how)):
            found, = evaluate(ModelSection(path=model), [reference], section=section, template=form, mirror=None,
                              out=self.folder / ("broken" if self.failure is not None else "whole")).values()
        return found

    @property
    def load(self) -> Callable[..., Any]:
        return load_model if self.failure is None else broken

    def local(self, reference: str) -> SuiteResult:
        return self.ask(reference, str(self.model))

    def served(self, reference: str, said: str = "fine") -> SuiteResult:
        """By a server; a failure of None is a connection that is refused."""
        with serve(self.says(said, lambda body: body["messages"][-1]["content"])) as (url, _):
            return self.ask(reference, f"{url}#fake", None)

    def says(self, said: str, sees: Callable[[Any], str]) -> Callable[[Any, int], Any]:
        def say(body: dict[str, Any], _: int) -> Any:
            if self.failure is None or "~" not in sees(body):
                return said
            return self.failure() if callable(self.failure) else self.failure

        return say


def rows(room: Room, kind: str = "bare", **more: Any) -> list[dict[str, Any]]:
    expect = {"answers": ["fine"]}
    return [{"id": f"i{n}", "kind": kind, "cluster": f"i{n}", "expect": expect,
             "messages": [{"role": "user", "content": room.text(n)}], **more} for n in range(ITEMS)]


def lm_task(room: Room, kind: str, **more: Any) -> str:
    questions = [{"question": room.text(n), "choices": ["a", "b"], "answer": 0} for n in range(ITEMS)]
    (room.folder / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    (room.folder / "task.yaml").write_text(yaml.safe_dump({
        "task": "own_task", "dataset_path": "json", "test_split": "test", "output_type": kind,
        "dataset_kwargs": {"data_files": {"test": str(room.folder / "task.jsonl")}},
        "doc_to_text": "{{question}}", **more}))
    return "lm:own_task"


def generation(room: Room) -> SuiteResult:
    return room.local(room.suite(rows(room)))


def likelihood(room: Room) -> SuiteResult:
    texts = [{"id": f"t{n}", "kind": "text", "cluster": f"t{n}", "text": room.text(n)} for n in range(ITEMS)]
    return room.local(room.suite(texts, kind="capability", engine="likelihood", scale="log", max_new_tokens=None))


def answers(room: Room) -> SuiteResult:
    texts = [{"id": f"t{n}", "kind": "answer", "cluster": f"t{n}", "answer": "yes",
              "messages": [{"role": "user", "content": room.text(n)}]} for n in range(ITEMS)]
    return room.local(room.suite(texts, kind="capability", engine="likelihood", scale="log", max_new_tokens=None,
                                 chat=True))


def lm_choice(room: Room) -> SuiteResult:
    return room.local(lm_task(room, "multiple_choice", doc_to_choice="{{choices}}", doc_to_target="answer"))


def lm_generation(room: Room) -> SuiteResult:
    return room.local(lm_task(room, "generate_until", doc_to_target="a", generation_kwargs={
        "until": ["\n"], "max_gen_toks": 4}, metric_list=[{"metric": "exact_match"}]))


def lm_perplexity(room: Room) -> SuiteResult:
    return room.local(lm_task(room, "loglikelihood_rolling", doc_to_target="{{question}}", doc_to_text="", metric_list=[
        {"metric": "byte_perplexity"}]))


def vllm(room: Room) -> SuiteResult:
    """vLLM by its contract, over a model of transformers."""
    loaded = room.load(ModelSection(path=str(room.model)), mirror=None)
    engine = Engine(loaded.model.eval(), 256)
    with mock.patch("eval_suites.backends.vllm.version", return_value="0"):
        backend = Cached(Vllm(SimpleNamespace(SamplingParams=SimpleNamespace), engine, 256, "float32"), None, "model")
        subject = respondent.ready(loaded.model, loaded.tokenizer, FORM, backend, "vllm")
    chosen, section = suite(room.suite(rows(room))), EvalSection(suites=("refusal",))
    asking = open_suite(chosen, subject, section, None)
    taken = asking.take({f"i{n}" for n in range(ITEMS)})
    return SuiteResult(chosen.name, chosen.kind, {"v": 1}, taken.items, 0.0)


def endpoint(room: Room) -> SuiteResult:
    return room.served(room.suite(rows(room)))


def endpoint_tools(room: Room) -> SuiteResult:
    takes = {"type": "object", "properties": {}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": takes}}]
    expect = {"calls": [{"f": {}}], "parameters": {"f": takes}}
    return room.served(room.suite(rows(room, "tool_calls", tools=tools, expect=expect)),
                       '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>')


def endpoint_refusal(room: Room) -> SuiteResult:
    return room.served(room.suite(rows(room, "harmful", expect={"refuse": True})), "I cannot help with that.")


def endpoint_open(room: Room) -> SuiteResult:
    """Judged whole: what the model under test left unanswered."""
    asked = room.served(room.suite(rows(room, "open", expect={}), scorer="eval_suites.judge.talk:keep_open"))
    return judge_single(asked, judge_at_one("[[7]]"))


def own_scorer(room: Room) -> SuiteResult:
    (room.folder / "mine.py").write_text(
        "from eval_suites.scorers.base import Score\n\n"
        "def mine(expect, answer):\n    if '~' in answer and expect['breaks']:\n        raise KeyError('no gold')\n"
        "    return Score(1.0, {}, '')\n")
    breaks = room.failure is not None
    mine = [{**row, "expect": {"breaks": True}} for row in rows(room, "mine")]
    quiet = room._replace(failure="fine ~" if breaks else None)
    return quiet.served(room.suite(mine, scorer="mine.py:mine"))


def judge_at_one(said: Any) -> Any:
    return SimpleNamespace(name="judge", ask=lambda asked: [said] * len(asked))


def judged(room: Room, judge: Callable[[SuiteResult, Any], SuiteResult], said: str) -> SuiteResult:
    """Answers that are all there, by a judge that fails where it sees the mark."""
    whole = room._replace(failure=None).served(room.suite(rows(room, "open", expect={}),
                                                          scorer="eval_suites.judge.talk:keep_open"))
    with serve(room.says(said, lambda body: body["messages"][0]["content"])) as (url, _):
        where = Endpoint(EndpointSection(url=url, model="fake", retries=0))
        return judge(whole, judge_at(where, "fake", 64))


def judge_in_pairs(room: Room) -> SuiteResult:
    def other(whole: SuiteResult, judge: Any) -> SuiteResult:
        tuned = replace(whole, items=tuple(item._replace(answer="other") for item in whole.items))
        return judge_pairs(whole, tuned, judge)[1]

    return judged(room, other, "[[C]]")


def judge_alone(room: Room) -> SuiteResult:
    return judged(room, judge_single, "[[7]]")


def requests(room: Room, answer: Callable[[int], str]) -> SuiteResult:
    """Requests that were all refused or answered, scored by the rules."""
    whole = room._replace(failure=None).served(room.suite(rows(room, "harmful", expect={"refuse": True})))
    return replace(whole, items=tuple(item._replace(answer=answer(n)) for n, item in enumerate(whole.items)))


def judge_of_refusals(room: Room) -> SuiteResult:
    with serve(room.says("[[refusal]]", lambda body: body["messages"][0]["content"])) as (url, _):
        where = EndpointSection(url=url, model="fake", retries=0)
        section = EvalSection(suites=("refusal",), refusal_scorer="judge", judge=JudgeSection(endpoint=where))
        scorer = refusal_scorer(section, judge_at(Endpoint(where), "fake", 64).ask)
        return rescore(requests(room, room.text), scorer)


def classifier(room: Room) -> SuiteResult:
    """Whose embedding of the mark is no number."""
    folder = room.folder / f"classifier-{room.failure is None}"
    raw = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "~": 2}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(
        vocab_size=3, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, pad_token_id=1))
    if room.failure is not None:
        with torch.no_grad():
            model.bert.embeddings.word_embeddings.weight[2] = float("nan")
    model.save_pretrained(folder)
    section = EvalSection(suites=("refusal",), refusal_scorer=str(folder),
                          refusal_labels={"LABEL_0": "compliance", "LABEL_1": "refusal"})
    return replace(rescore(requests(room, room.text), refusal_scorer(section)), protocol={"v": 1})


class Path_(NamedTuple):
    """One path, what is said of an item that breaks in it, and what a server says then; weights break by themselves."""

    run: Callable[[Room], SuiteResult]
    why: str
    failure: Failure = ""


def late() -> str:
    time.sleep(4)
    return "fine"


def chat(content: str | None, **more: Any) -> tuple[int, dict[str, str], str]:
    top = {"model": more.pop("model")} if "model" in more else {}
    return 200, {}, json.dumps({**top, "choices": [{"message": {"content": content}, **more}]})


DOWN = (500, {}, "oops")
PATHS = {
    "generation": Path_(generation, NAN), "likelihood": Path_(likelihood, NAN),
    "answers": Path_(answers, NAN), "lm_choice": Path_(lm_choice, NAN),
    "lm_generation": Path_(lm_generation, NAN), "lm_perplexity": Path_(lm_perplexity, NAN),
    "vllm": Path_(vllm, NAN), "own_scorer": Path_(own_scorer, "no gold"),
    "endpoint_500": Path_(endpoint, "HTTP 500: oops", DOWN),
    "endpoint_429": Path_(endpoint, "HTTP 429: slow", (429, {"Retry-After": "0"}, "slow")),
    "endpoint_too_long": Path_(endpoint, "HTTP 400: maximum context", (400, {}, "maximum context length is 9")),
    "endpoint_empty_body": Path_(endpoint, "no chat completion", (200, {}, "")),
    "endpoint_no_words": Path_(endpoint, "neither words nor a finish_reason", chat(None)),
    "endpoint_html": Path_(endpoint, "no chat completion", (200, {}, "<html>bad gateway</html>")),
    "endpoint_cut": Path_(endpoint, "no answer", (200, {"Content-Length": "99"}, '{"choices": [')),
    "endpoint_late": Path_(endpoint, "within 2 s", late),
    "endpoint_filtered": Path_(endpoint, "withheld", chat("no", finish_reason="content_filter")),
    "endpoint_another_model": Path_(endpoint, "'other' answers there", chat("no", finish_reason="stop", model="other")),
    "endpoint_tools": Path_(endpoint_tools, "HTTP 500", DOWN),
    "endpoint_refusal": Path_(endpoint_refusal, "HTTP 500", DOWN),
    "endpoint_open": Path_(endpoint_open, "HTTP 500", DOWN),
    "judge_in_pairs": Path_(judge_in_pairs, "HTTP 500", DOWN), "judge_alone": Path_(judge_alone, "HTTP 500", DOWN),
    "judge_without_verdict": Path_(judge_alone, "no verdict", "well, well"),
    "judge_of_refusals": Path_(judge_of_refusals, "HTTP 500", DOWN),
    "classifier": Path_(classifier, "gave NaN"),
}


UNMEASURED = ("generation", "likelihood", "lm_choice", "endpoint_500", "judge_in_pairs", "classifier")
"""Paths that are run with too many errors: what follows hangs on the results alone."""


class TestErrors:
    """What holds of every path."""

    @pytest.fixture
    def sides(self, name: str, model_folder: Path, tmp_path: Path
              ) -> Callable[[int], tuple[SuiteResult, SuiteResult]]:
        """Whole and broken, with so many items marked."""
        path = PATHS[name]

        def run(marked: int) -> tuple[SuiteResult, SuiteResult]:
            whole = path.run(Room(tmp_path, model_folder, marked, None))
            return whole, path.run(Room(tmp_path, model_folder, marked, path.failure))

        return run

    @pytest.mark.parametrize("name", PATHS)
    def test_an_error_is_never_a_wrong_answer(
            self, name: str, sides: Callable[[int], tuple[SuiteResult, SuiteResult]], tmp_path: Path) -> None:
        whole, found = sides(1)
        assert whole.tally.unscored == 0
        assert [item.score is None for item in found.items] == [True] + [False] * 9
        assert PATHS[name].why in found.items[0].why
        assert [item.score for item in found.items[1:]] == pytest.approx([item.score for item in whole.items[1:]])
        assert found.score == pytest.approx(tally(found.items[1:]).score)
        row, = listed({"x": found})
        assert (row["items"], row["unscored"]) == (10, 1)
        assert any(PATHS[name].why in said for said in remarks({"x": found}) if "1 of 10 items without a score" in said)
        kept = json.loads(write_results(tmp_path / "kept", found).read_text())
        assert (kept["scored"], kept["unscored"], kept["asked"]) == (9, 1, 10)
        check_measured({"x": found})

        verdict = reach_verdict.fn({found.suite: whole}, {found.suite: found}, GateSection())
        one, = verdict.suites
        assert (one.pairs, one.asked, one.lost, one.gained) == (9, 10, 0, 0)
        assert one.points == pytest.approx(0.0, abs=1e-4)
        assert verdict.rows()[0]["items"] == "9 of 10"
        results = {"base": {found.suite: whole}, "tuned": {found.suite: found}}
        logged = verdict_metrics(*results.values(), verdict)
        assert [value for key, value in logged.items() if key.endswith((".with_score", ".without_score"))] == [9, 1]
        write_report_page(tmp_path / "page.html", "x", compared(verdict, *results.values()))
        assert "9 of 10" in (tmp_path / "page.html").read_text()

    @pytest.mark.parametrize("name", UNMEASURED)
    def test_too_many_errors_are_no_measurement(
            self, name: str, sides: Callable[[int], tuple[SuiteResult, SuiteResult]], tmp_path: Path) -> None:
        whole, found = sides(8)
        assert (found.tally.scored, found.score) == (2, None)
        assert listed({"x": found})[0]["score"] == "not measured"
        assert json.loads(write_results(tmp_path / "kept", found).read_text())["score"] is None
        with pytest.raises(EvalError, match="x: not measured: 2 of 10 items were scored"):
            check_measured({"x": found})

        gate = GateSection(must_improve=(found.suite,), at_least={found.suite: 0.0} if found.scale == "share" else {})
        verdict = reach_verdict.fn({found.suite: whole}, {found.suite: found}, gate)
        one, = verdict.suites
        assert (verdict.gate, one.outcome, one.points, one.tuned) == ("undecided", "not_measured", None, None)
        assert "not measured: 2 of 10 items have a score on both sides" in verdict.reason
        night, = weigh({found.suite: whole}, {found.suite: found}, ({}, {}), gate)
        assert night.state == "not_measured", "a nightly tells of no regression"
        assert PATHS[name].why in night.said
        write_report_page(tmp_path / "page.html", "x", compared(verdict, {found.suite: whole}, {found.suite: found}))
        assert "not measured: 2 of 10" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("ended", ["stop", "length"])
def test_a_model_that_says_nothing_is_wrong(ended: str, model_folder: Path, tmp_path: Path) -> None:
    """Its server said how it ended; a body without words and without that is none."""
    found = endpoint(Room(tmp_path, model_folder, 3, chat("", finish_reason=ended)))
    assert [item.score for item in found.items] == [0.0] * 3 + [1.0] * 7
    assert found.tally.unscored == 0


def test_a_form_of_the_questions_with_too_many_errors_costs_nothing_that_is_known(
        model_folder: Path, tmp_path: Path) -> None:
    """Both forms of an item break together: the drop is over the pairs that are whole."""
    for marked, items, points in ((1, 9, 0.0), (8, 2, None)):
        room = Room(tmp_path, model_folder, marked, DOWN)
        drop, = drops(room.served(room.suite(rows(room), variants=["upper"])))
        assert (drop.variant, drop.items, drop.points) == ("upper", items, points)
