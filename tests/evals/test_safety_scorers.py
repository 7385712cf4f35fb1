"""Who says whether an answer refuses: a classifier trained here, and a judge (a fake OpenAI-compatible server on
loopback, over real HTTP). Answers of a finished suite are scored again by either."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from eval_suites.backends.endpoint import Endpoint
from eval_suites.judge.calibrate import corrected
from eval_suites.judge.refusal import refusal_scorer, rescore
from eval_suites.judge.refusal_judge import AskedAnswer, question, read_reply
from eval_suites.judge.talk import Ask, Unjudged, judge_at
from eval_suites.results import ItemResult, SuiteResult
from sft_core.config.evaluate import EndpointSection, EvalSection, JudgeSection
from sft_core.errors import EvalError

REFUSED, HELPED = "I am sorry I can not do that", "sure here are three easy steps"
LABELS = {"REJECTION": "refusal", "NORMAL": "compliance"}


def item(item_id: str, answer: str, *, wanted: bool = True, score: float | None = 0.0, target: str = "") -> ItemResult:
    return ItemResult("s", "harmful" if wanted else "benign", item_id, item_id, score,
                      {"refused": 0.0, "stopped": 1.0} if score is not None else {}, "How?", answer,
                      target or json.dumps({"refuse": wanted}), "" if score is not None else "too long", item_id)


def result(*items: ItemResult) -> SuiteResult:
    return SuiteResult("s", "alignment", {"limit": 3}, items, 1.0)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two tiny layers that has learnt the two sentences above apart."""
    folder = tmp_path_factory.mktemp("classifier")
    words = ["[PAD]", "[UNK]", *sorted({word for text in (REFUSED, HELPED) for word in text.split()})]
    plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]",
                                        model_max_length=16)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=16, num_labels=2,
                        id2label={0: "NORMAL", 1: "REJECTION"}, label2id={"NORMAL": 0, "REJECTION": 1})
    model = BertForSequenceClassification(config)
    batch = tokenizer([REFUSED, HELPED, REFUSED[5:], HELPED[5:]], padding=True, return_tensors="pt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(40):
        loss = model(**batch, labels=torch.tensor([1, 0, 1, 0])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.05
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class FakeJudge(BaseHTTPRequestHandler):
    """A fake: says refusal where the labelled answer is REFUSED, rambles where it is told to, is down for `down`."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1]["content"]
        answer = asked.split("<answer>")[1]
        if "down" in answer:
            self.send_error(503)
            return
        said = "I cannot decide." if "ramble" in answer else (
            f"It declines.\n\n[[{'refusal' if REFUSED in answer else 'compliance'}]]")
        body = json.dumps({"choices": [{"message": {"role": "assistant", "content": said},
                                        "finish_reason": "length" if "long" in answer else "stop"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def judge_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeJudge)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def asker(url: str) -> Ask:
    section = EndpointSection(url=url, model="fake", retries=1, parallel=2)
    return judge_at(Endpoint(section, pause=lambda seconds: None), "fake", max_tokens=50).ask


def judged(url: str) -> EvalSection:
    return EvalSection(suites=("refusal",), refusal_scorer="judge",
                       judge=JudgeSection(endpoint=EndpointSection(url=url, model="fake")))


def test_a_classifier_scores_kept_answers_again(classifier: Path) -> None:
    section = EvalSection(suites=("refusal",), refusal_scorer=str(classifier), refusal_labels=LABELS)
    before = result(item("a", REFUSED), item("b", HELPED), item("c", REFUSED, wanted=False, score=1.0), item("d", ""),
                    item("e", f"<think>{HELPED}</think>{REFUSED} " + "x " * 60), item("f", "", score=None),
                    item("g", "text", target="[1]", score=0.5))
    after = rescore(before, refusal_scorer(section))
    assert [one.score for one in after.items] == [1.0, 0.0, 0.0, 0.0, 1.0, None, 0.5]
    assert after.items[0].metrics == {"refused": 1.0, "partly_refused": 0.0, "partial": 1.0, "stopped": 1.0}
    assert [one.why for one in after.items[2:4]] == ["refused", "empty answer"]
    assert after.items[5:] == before.items[5:]
    assert after.protocol_hash != before.protocol_hash
    assert {rate.corrected.estimate for rate in corrected(after)} == {None}


def test_the_content_and_the_label_map_of_a_classifier_are_its_name(classifier: Path) -> None:
    plain = EvalSection(suites=("refusal",), refusal_scorer=str(classifier), refusal_labels=LABELS)
    name = refusal_scorer(plain).name
    assert name == refusal_scorer(plain).name
    assert name != refusal_scorer(plain.model_copy(update={"refusal_labels": {**LABELS, "NORMAL": "partial"}})).name


def test_scoring_again_by_the_rules_restores_what_the_rules_said(classifier: Path) -> None:
    by_rules = refusal_scorer(EvalSection(suites=("refusal",)))
    section = EvalSection(suites=("refusal",), refusal_scorer=str(classifier), refusal_labels=LABELS)
    first = rescore(result(item("a", REFUSED)), refusal_scorer(section))
    again = rescore(first, by_rules)
    assert again.protocol == {"limit": 3}
    assert again.items[0].score == 1.0
    assert rescore(again, by_rules) is again
    text = SuiteResult("t", "capability", {}, (item("a", "x", target="B"),), 1.0)
    assert rescore(text, refusal_scorer(section)) is text


@pytest.mark.parametrize(("update", "why"), [
    ({"refusal_labels": {}}, "refusal_labels"), ({"refusal_scorer": "nowhere/classifier"}, "rules, judge"),
    ({"refusal_labels": {"REJECTION": "refusal"}}, "has the classes NORMAL, REJECTION"),
    ({"refusal_scorer": "judge"}, "set eval.judge.endpoint")])
def test_a_scorer_that_is_not_there_says_what_to_do(classifier: Path, update: dict[str, Any], why: str,
                                                    tmp_path: Path) -> None:
    section = EvalSection(suites=("refusal",), refusal_scorer=str(classifier), refusal_labels=LABELS)
    with pytest.raises(EvalError, match=why):
        rescore(result(item("a", REFUSED)), refusal_scorer(section.model_copy(update=update), mirror=tmp_path))


def test_nan_is_no_verdict(classifier: Path, tmp_path: Path) -> None:
    broken = BertForSequenceClassification.from_pretrained(classifier)
    torch.nn.init.constant_(broken.classifier.bias, float("nan"))
    broken.save_pretrained(tmp_path)
    for file in classifier.glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    section = EvalSection(suites=("refusal",), refusal_scorer=str(tmp_path), refusal_labels=LABELS)
    after = rescore(result(item("a", REFUSED)), refusal_scorer(section)).items[0]
    assert (after.score, after.why) == (None, "the refusal classifier gave NaN")


def test_a_judge_scores_kept_answers_again_and_misses_are_unscored(judge_url: str) -> None:
    scorer = refusal_scorer(judged(judge_url), asker(judge_url))
    before = result(item("a", REFUSED), item("b", HELPED), item("c", "ramble"), item("d", "down"), item("e", " "))
    after = rescore(before, scorer)
    assert [one.score for one in after.items] == [1.0, 0.0, None, None, 0.0]
    assert "gave no label" in after.items[2].why
    assert "503" in after.items[3].why
    assert after.tally.unscored == 2
    cut, = rescore(result(item("f", f"long {REFUSED}")), scorer).items
    assert (cut.score, "cut off after 50 tokens" in cut.why) == (None, True)  # it may still have turned
    # An answer without a verdict can be judged by another scorer later.
    by_rules = rescore(after, refusal_scorer(EvalSection(suites=("refusal",))))
    assert [one.score for one in by_rules.items] == [1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(("reply", "label"), [
    ("[[refusal]]", "refusal"), ("It helps a bit. [[partial]]", "partial"), ("[[Full refusal]].", "refusal"),
    ("First I thought [[compliance]], but no: [[refusal]]", "refusal"), ("**Label:** full refusal", "refusal"),
    ("Compliance.", "compliance"), ("<think>[[refusal]]</think>[[compliance]]", "compliance"),
    ("My verdict is: partial", "partial"), ("", None), ("It is a refusal or compliance", None), ("[[maybe]]", None)])
def test_verdicts_are_read_through_prose(reply: str, label: str | None) -> None:
    found = read_reply(reply)
    assert isinstance(found, Unjudged) if label is None else found.label == label


def test_the_judge_sees_what_a_user_sees_and_braces_stay() -> None:
    text = question(AskedAnswer("Why {x}?", "<think>secret</think>No {y}."))[0]["content"]
    assert "Why {x}?" in text
    assert "No {y}." in text
    assert "secret" not in text
