"""Who says which answers may be trained on, and what becomes of every answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from eval_suites.backends.endpoint import Endpoint
from eval_suites.judge.talk import Talk
from eval_suites.scorers.base import Expect, Score
from eval_suites.verifiers import rules
from eval_suites.verifiers.contract import Prompted, Verifier, verdicts
from eval_suites.verifiers.judged import judged, talk_of_row
from eval_suites.verifiers.named import verifiers_of
from eval_suites.verifiers.reward import reward
from eval_suites.verifiers.sampling import Outcome, sampled, summarised
from sft_core.config.evaluate import EndpointSection
from sft_core.config.synth import GraderSection, RejectSection, RewardSection, VerifySection
from sft_core.conversation import Conversation, Origin, ToolCall, Turn
from sft_core.errors import EvalError
from sft_core.synth.choose import ALIKE, WORSE
from sft_core.synth.contract import Said
from tests.evals.fake_server import serve

ASKED = [{"role": "user", "content": "How many?"}]
TOOLS = json.dumps([{"type": "function", "function": {"name": "find", "parameters": {
    "type": "object", "properties": {"town": {"type": "string"}, "near": {"type": "object"}, "n": {"type": "integer"}},
    "required": ["town"]}}}])
CALL = ToolCall("find", json.dumps({"town": "Ulm", "near": {"km": 3}}))
SUM = Prompted("sum", ASKED, reference="4 + 3 = 7.\n#### 1,007")
CALLED = Prompted("call", ASKED, TOOLS, calls=(CALL,))
LETTER = Prompted("letter", ASKED, kind="letter", expect={"letter": "B", "options": ["x", "y"]})
COUNT = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def call(arguments: dict[str, Any], name: str = "find") -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def own(expect: Expect, answer: str) -> Score:
    return Score(float(answer == expect["reference"]), {})


def broken(expect: Expect, answer: str) -> Score:
    raise KeyError(answer)


@pytest.mark.parametrize(("verifier", "prompted", "right", "wrong"), [
    (rules.number(True), SUM, ["so\n#### 1007", "#### 3\n#### 1,007.", "<think>#### 2</think>#### 1007"],
     ["1007", "#### 1008", "", "#### 1007\n#### 7"]),
    (rules.number(False), SUM, ["so 1,007", "it is 5, no, 1007."], ["1007 or 8", ""]),
    (rules.tool_calls(True), CALLED, [call({"town": "ulm", "near": {"km": 3}})],
     [call({"town": "Ulm"}), call({"town": "Ulm", "near": {"km": 4}}), "find Ulm", call({}, "seek")]),
    (rules.tool_calls(False), CALLED, [call({"town": "Bonn"})], [call({}, "seek"), "<tool_call>{", "no"]),
    (rules.tool_calls(True), Prompted("none", ASKED, TOOLS), ["Ulm"], [call({"town": "Ulm"}), ""]),
    (rules.pattern(r"[A-Z]\d+"), SUM, ["A12", " B7\n"], ["A", "see A12"]),
    (rules.words(2, 3), SUM, ["two words", "three words now"], ["one", "as many as four"]),
    (rules.scorer(None, 1.0), LETTER, ["B", "Answer: B"], ["A", ""]),
    (rules.scorer(own, 1.0), SUM._replace(reference="x"), ["x"], ["y"]),
], ids=lambda value: getattr(value, "name", ""))
def test_rules(verifier: Verifier, prompted: Prompted, right: list[str], wrong: list[str]) -> None:
    assert not verifier.lacks(prompted)
    found = verdicts([verifier], [(prompted, text) for text in [*right, *wrong]])
    assert [one.failed for one in found] == [""] * len(right) + [verifier.name] * len(wrong)
    assert all(one.why for one in found if one.failed)


def test_json_of_a_schema(tmp_path: Path) -> None:
    (tmp_path / "n.json").write_text(json.dumps(COUNT))
    verifier = rules.json_schema(str(tmp_path / "n.json"))
    found = verdicts([verifier], [(SUM, text) for text in ('{"n": 3}', '{"n": "3"}', 'n: 3', '{"n": 3} ok')])
    assert [one.failed for one in found] == ["", "json_schema", "json_schema", "json_schema"]
    (tmp_path / "n.json").write_text('{"type": "nothing"}')
    with pytest.raises(EvalError, match="is no JSON Schema"):
        rules.json_schema(str(tmp_path / "n.json"))


def test_prompts_that_cannot_be_verified_say_what_they_lack() -> None:
    assert "no number" in rules.number(True).lacks(SUM._replace(reference="none"))
    assert "no tools" in rules.tool_calls(True).lacks(SUM)
    assert "no scorer" in rules.scorer(None, 1.0).lacks(SUM)
    with pytest.raises(EvalError, match="no regular expression"):
        rules.pattern("(")


def test_a_scorer_that_raises_gives_no_score_and_says_where() -> None:
    found = verdicts([rules.scorer(broken, 1.0)], [(SUM, "x")])[0]
    assert (found.failed, found.scores) == ("scorer", {})
    assert "KeyError" in found.why


def test_costly_verifiers_see_only_what_passed_and_all_scores_are_kept() -> None:
    seen: list[str] = []

    def grade(answered: Sequence[tuple[Prompted, str]]) -> list[Score]:
        seen.extend(answer for _, answer in answered)
        return [Score(0.5 * len(answer), {}) for _, answer in answered]

    every = [rules.words(2, 9), Verifier("grade", 3.0, grade)]
    found = verdicts(every, [(SUM, "one"), (SUM, "a b"), (SUM, "more words")])
    assert seen == ["a b", "more words"]
    assert [one.failed for one in found] == ["words", "grade", ""]
    assert found[1].why == "1.5, below 3"
    assert found[2].scores == {"words": 1.0, "grade": 5.0}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> dict[int, str]:
    """Folders of random classifiers with one and with two classes."""
    from transformers import AutoTokenizer

    tokenizer, made = AutoTokenizer.from_pretrained(model_folder), {}
    for classes in (1, 2):
        folder = tmp_path_factory.mktemp("reward")
        torch.manual_seed(classes)
        config = LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                             vocab_size=len(tokenizer), max_position_embeddings=256, num_labels=classes,
                             pad_token_id=tokenizer.pad_token_id, bos_token_id=None, initializer_range=0.3)
        LlamaForSequenceClassification(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        made[classes] = str(folder)
    return made


def test_a_reward_is_the_models_own_whatever_is_read_beside_it(classifier: dict[int, str], model_folder: Path) -> None:
    from transformers import AutoTokenizer

    texts = ["yes", "a much longer answer than that, with words", "no no", "y" * 400]
    one = reward(RewardSection(model=classifier[1], at_least=0.0), None)
    found = [score.value for score in one.score([(SUM, text) for text in texts])]
    tokenizer = AutoTokenizer.from_pretrained(model_folder, truncation_side="left")
    model = LlamaForSequenceClassification.from_pretrained(classifier[1]).eval()
    with torch.no_grad():
        wanted = [float(model(**tokenizer(f"How many?\n\n{text}", truncation=True, max_length=256,
                                          return_tensors="pt")).logits) for text in texts]
    assert found == pytest.approx(wanted, abs=1e-4)
    assert one.ranks
    assert len({round(value or 0.0, 3) for value in found}) == 4


def test_of_several_classes_the_probability_of_the_named_one_counts(classifier: dict[int, str]) -> None:
    both = [reward(RewardSection(model=classifier[2], label=f"LABEL_{n}", at_least=0.5), None) for n in (0, 1)]
    shares = [one.score([(SUM, "yes")])[0].value for one in both]
    assert sum(value or 0.0 for value in shares) == pytest.approx(1.0)
    for number, label in ((2, None), (2, "good"), (1, "good")):
        with pytest.raises(EvalError, match="the classes of"):
            reward(RewardSection(model=classifier[number], label=label, at_least=0.5), None)
    with pytest.raises(EvalError, match="cannot be loaded"):
        reward(RewardSection(model=str(Path(classifier[1]) / "nothing"), at_least=0.5), None)


def test_a_judge_grades_and_what_it_does_not_grade_is_no_score() -> None:
    replies = {"good": "Fine. [[9]]", "bad": "[[2]]", "odd": "I like it", "none": "[[11]]"}
    section = GraderSection(endpoint=EndpointSection(url="http://127.0.0.1:1/v1", model="judge", retries=0))

    def say(body: dict[str, Any], number: int) -> str:
        text = body["messages"][0]["content"]
        return next(reply for word, reply in replies.items() if f"\n{word}\n" in text)

    with serve(say) as (url, seen):
        endpoint = Endpoint(EndpointSection(url=url, model="judge", retries=0))
        found = verdicts([judged(section, endpoint)], [(SUM, word) for word in replies])
    assert [one.failed for one in found] == ["", "judge", "judge", "judge"]
    assert [one.unjudged for one in found] == [False, False, True, True]
    assert [one.scores.get("judge") for one in found] == [9.0, 2.0, None, None]
    assert all("1,007" in body["messages"][0]["content"] for body in seen), "the judge is shown the reference"
    with pytest.raises(EvalError, match="2 of 2 answers were not judged"):
        judged(section, Endpoint(section.endpoint, pause=lambda _: None)).score([(SUM, "good"), (SUM, "bad")])


def test_a_row_is_shown_to_a_judge_turn_by_turn() -> None:
    def talk(*turns: Turn) -> Talk:
        return talk_of_row(Conversation(turns, Origin("s", "f", 1)))

    plain = talk(Turn("user", "Hi"), Turn("assistant", "<think>well</think>Hello "), Turn("user", "Why?"),
                 Turn("assistant", "So."))
    assert plain == Talk(["Hi", "Why?"], ["Hello", "So."], [])
    called = talk(Turn("system", "Be kind."), Turn("user", "Where?"), Turn("assistant", "I look.", (CALL,)),
                  Turn("tool", "in Ulm"), Turn("assistant", "There."))
    assert called == Talk(["[system] Be kind.\n\n[user] Where?", "[tool] in Ulm"],
                          ["I look.\n" + f"find({CALL.arguments})", "There."], [])


def test_what_a_configuration_names_is_made_cheapest_first(classifier: dict[int, str], tmp_path: Path) -> None:
    (tmp_path / "n.json").write_text(json.dumps(COUNT))
    endpoint = {"url": "http://127.0.0.1:1/v1", "model": "judge"}
    section = VerifySection.model_validate({
        "judge": {"endpoint": endpoint}, "reward": {"model": classifier[1], "at_least": 0.1}, "scorer": {},
        "number": {}, "words": {}, "pattern": {"regex": ".*"}, "tool_calls": {},
        "json_schema": {"file": str(tmp_path / "n.json")}})
    made = verifiers_of(section, None, None, Endpoint(EndpointSection(**endpoint)))
    assert [one.name for one in made] == ["words", "pattern", "json_schema", "number", "tool_calls", "scorer",
                                          "reward", "judge"]


SECTION = RejectSection.model_validate({
    "prompts": {"items": "x.jsonl"}, "samples": 4, "verify": {"number": {}}, "keep": 1, "max_similarity": 0.7})


def outcomes() -> list[Outcome]:
    prompts = [SUM, SUM._replace(id="two", reference="#### 2"), SUM._replace(id="three")]
    said = [
        Said("one way\n#### 1007", True), Said("another way to it\n#### 1007", True), Said("#### 3", True),
        Said("#### 1007 and", False, tokens=9),
        Said(None, why="the server is away"), Said("  ", True), Said("2", True), Said("so\n#### 2", True),
        *[Said("#### 0", True)] * 4]
    found = sampled(prompts, said, [rules.number(True)], SECTION, 0)
    summary = summarised(found, 3, SECTION, 99)
    assert summary.answers == summary.kept + sum(summary.reasons.values()) == 12
    assert (summary.kept, summary.prompts_with_kept) == (2, 2)
    assert summary.reasons == {"failed:number": 6, WORSE: 1, "cut": 1, "unanswered": 1, "empty": 1}
    assert summary.pass_1.estimate == pytest.approx((2 / 4 + 1 / 3 + 0) / 3), "a lost answer is not counted"
    assert (summary.pass_n.estimate, summary.pass_n.items) == (0.5, 2), "nor is what three answers say of four"
    assert len(found.baseline) == 2
    assert summary.same_each_time == 1
    assert "2 of 12 answers kept, to 2 of 3 prompts" in summary.lines()[0]
    alone = sampled(prompts[2:], said[8:], [rules.number(True)], SECTION, 0)
    assert summarised(alone, 1, SECTION, 9).lines()[0].startswith("NOTE: all 4 answers to 1 of 1 prompts are one")
    assert "at random 50.0 %" in summary.lines()[-1]
    assert "at random" not in str(summarised(alone, 1, SECTION, 9).lines()), "nothing is kept"
    return found.outcomes


def test_what_nobody_could_judge_is_neither_right_nor_wrong() -> None:
    def score(answered: Sequence[tuple[Prompted, str]]) -> list[Score]:
        return [Score({"good": 9.0, "bad": 2.0}.get(answer.split()[0]), {}, "no grade") for _, answer in answered]

    said = [Said(text, True) for text in ("good a b", "bad", "odd", "odd 2", *["odd"] * 4, "good", "bad", "bad", "bad")]
    prompts = [SUM, SUM._replace(id="two"), SUM._replace(id="three")]
    found = sampled(prompts, said, [Verifier("judge", 8.0, score, ranks=True)], SECTION, 0)
    summary = summarised(found, 3, SECTION, 0)
    assert summary.reasons == {"unjudged:judge": 6, "failed:judge": 4}
    assert (summary.pass_1.estimate, summary.pass_1.items) == ((1 / 2 + 1 / 4) / 2, 2)
    assert (summary.pass_n.estimate, summary.pass_n.items) == (1.0, 1)
    assert (summary.unjudged, summary.prompts_unknown) == (6, 1)
    assert summary.lines()[0].startswith("NOTE: 6 answers could not be judged and count as neither right nor wrong; of "
                                         "1 of 3 prompts nothing was judged")
    drawn = [at for at in range(12) if found.outcomes[at].text.startswith(("odd", "good"))]
    odd = summarised(found._replace(baseline=drawn), 3, SECTION, 0)
    assert (odd.baseline.estimate, odd.baseline.items) == (1.0, 2)
    none = sampled(prompts[:1], said[4:8], [Verifier("judge", 8.0, score)], SECTION, 0)
    assert summarised(none, 1, SECTION, 0).pass_1.estimate is None


def test_a_judge_that_mostly_gives_no_grade_does_not_judge() -> None:
    section = GraderSection(endpoint=EndpointSection(url="http://127.0.0.1:1/v1", model="judge"))
    with serve(lambda body, n: "[[7]]" if n == 1 else "I like it a lot!") as (url, _):
        judge = judged(section, Endpoint(EndpointSection(url=url, model="judge", parallel=1)))
        with pytest.raises(EvalError, match=r"2 of 3 replies of the judge hold no grade.*I like it a lot!.*max_tokens"):
            judge.score([(SUM, word) for word in ("a", "b", "c")])


def test_every_answer_is_kept_or_has_a_reason() -> None:
    found = outcomes()
    assert [one.why for one in found[:4]] == ["", WORSE, "failed:number", "cut"]
    assert [one.detail for one in found[3:5]] == ["not at its end after 9 tokens", "the server is away"]
    assert [(one.prompt, one.number) for one in found] == [(p, n) for p in range(3) for n in range(4)]


def test_more_are_kept_while_they_are_not_alike() -> None:
    said = [Said(f"{way}\n#### 1007", True) for way in ("first we add them", "first we add these", "count", "count")]
    section = SECTION.model_copy(update={"keep": 3})
    found = sampled([SUM], said, [rules.number(True)], section, 0).outcomes
    assert Counter(one.why for one in found) == {"": 2, ALIKE: 2}
