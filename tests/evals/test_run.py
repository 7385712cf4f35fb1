"""From a model folder to results on disk: protocols, resuming, chat through a template, greedy answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch
from transformers import GenerationConfig

from eval_suites.asking import respondent
from eval_suites.asking.opened import answer_all
from eval_suites.asking.respondent import load_respondent
from eval_suites.asking.run import ChatFormat, evaluate, protocol, respondent_of
from eval_suites.backends.contract import Continuation, Generation, Likelihood, Prompt, Stops
from eval_suites.backends.generate import Answer, Templated, prompt_ids
from eval_suites.results import SuiteResult, read_results, write_results
from eval_suites.suites.items import ChatItem, read_items
from eval_suites.suites.suite import Suite, load_suites, suite
from eval_suites.verdict.verdict import compare
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EvalSection, GateSection
from sft_core.errors import EvalError
from sft_core.model.load import load_model

JINJA = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORM = ChatFormat(JINJA, ("<|im_end|>",))
SECTION = EvalSection(suites=("refusal",), limit=3, max_new_tokens=6, batch_tokens=400)


@pytest.fixture
def tuned_folder(model_folder: Path, tmp_path: Path) -> Path:
    """The same weights, saved as training saves a tuned model: own template, own stops."""
    loaded = load_model(ModelSection(path=str(model_folder)), mirror=None)
    loaded.tokenizer.chat_template = JINJA
    stop = loaded.tokenizer.convert_tokens_to_ids("<|im_end|>")
    loaded.model.generation_config = GenerationConfig(eos_token_id=[stop, loaded.tokenizer.eos_token_id])
    folder = tmp_path / "tuned"
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


def chat(item_id: str, text: str) -> ChatItem:
    return ChatItem(item_id, "benign", item_id, [{"role": "user", "content": text}], None, {"refuse": False})


@pytest.fixture
def model(model_folder: Path) -> tuple[Any, Any]:
    loaded = load_model(ModelSection(path=str(model_folder)), mirror=None)
    return loaded.model.eval(), loaded.tokenizer


def ask(model: tuple[Any, Any], items: list[ChatItem], longest: int, form: ChatFormat = FORM,
        batch_tokens: int = 4096) -> list[Answer]:
    answerer = respondent_of(*model, form, batch_tokens).answerer
    assert answerer is not None
    return answer_all(answerer, items, longest, "test")


def test_batches_change_no_answer(model: tuple[Any, Any]) -> None:
    """Left padding is masked, and the order of the items is kept."""
    items = [chat(str(i), "why " * n) for i, n in enumerate((9, 1, 4, 20, 2))]
    alone = [ask(model, [item], 8)[0] for item in items]
    together = ask(model, items, 8)
    assert together == alone == ask(model, items, 8, batch_tokens=1)
    assert len({a.text for a in alone}) > 1


def test_prompt_is_what_a_server_builds(model: tuple[Any, Any]) -> None:
    tokenizer = model[1]
    ids = prompt_ids(tokenizer, chat("a", "hi"), JINJA)
    assert tokenizer.decode(ids) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 2


class Scripted:
    """A backend that says what it is told."""

    name, window = "scripted", 256

    def __init__(self, rows: list[Generation]) -> None:
        self.rows = rows

    def likelihoods(self, asked: Sequence[Continuation]) -> Iterator[tuple[int, Likelihood]]:
        raise NotImplementedError

    def generate(self, asked: Sequence[Prompt], stops: Stops) -> Iterator[tuple[int, Generation]]:
        yield from enumerate(self.rows)


def test_answers_are_cut_at_a_stop_of_several_tokens(model: tuple[Any, Any]) -> None:
    tokenizer = model[1]
    said = [Generation(tuple(tokenizer.encode(text)), False) for text in ("yes###no", "yes", "f(x)==>###")]
    answers = answer_all(Templated(Scripted(said), tokenizer, ChatFormat(JINJA, ("###", "==>")), []),
                         [chat("a", "x"), chat("b", "y"), chat("c", "z")], 9, "test")
    assert [(one.text, one.stopped) for one in answers] == [("yes", True), ("yes", False), ("f(x)", True)]
    assert answers[0].tokens == 8


def test_every_stop_of_a_template_ends_an_answer(model: tuple[Any, Any]) -> None:
    """A call of a tool may have one of its own, and a base's generation config knows neither."""
    network, tokenizer = model
    ended = respondent_of(network, tokenizer, ChatFormat(JINJA, ("<|im_end|>", "<|im_start|>")), None)
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>"])
    assert set(ends) <= set(ended.network.generation_config.eos_token_id)


def test_what_cannot_be_asked_has_no_score(model: tuple[Any, Any]) -> None:
    refusing = ChatFormat("{{ raise_exception('no tools here') }}")
    assert ask(model, [chat("a", "hi")], 4, refusing)[0].text is None
    too_long = ask(model, [chat("a", "x" * 300), chat("b", "x")], 4)
    assert too_long[0].text is None
    assert "window of 256" in too_long[0].why
    assert too_long[1].text is not None
    with pytest.raises(jinja2.TemplateError):
        prompt_ids(model[1], chat("a", "hi"), refusing.jinja)


def test_tools_that_the_template_leaves_out_cannot_be_asked_about(model: tuple[Any, Any]) -> None:
    """A model that had never seen the function was scored for not calling it, and for calling none where none fits."""
    item = chat("a", "weather?")._replace(tools='[{"name": "weather"}]')
    assert "nothing of the tools" in ask(model, [item], 4)[0].why
    seen = ChatFormat("{{ tools }}" + JINJA, ("<|im_end|>",))
    assert [one.text is None for one in ask(model, [item, chat("b", "hi")], 4, seen)] == [False, False]


def test_base_and_tuned_have_one_protocol(model_folder: Path, tuned_folder: Path, tmp_path: Path) -> None:
    base = evaluate(ModelSection(path=str(model_folder)), ["refusal"], section=SECTION, template=FORM, mirror=None,
                    out=tmp_path / "base")["refusal"]
    tuned = evaluate(ModelSection(path=str(tuned_folder)), ["refusal"], section=SECTION, template=None, mirror=None,
                     out=tmp_path / "after")["refusal"]
    assert base.protocol_hash == tuned.protocol_hash
    assert [i.answer for i in base.items] == [i.answer for i in tuned.items]  # the same weights
    assert base.model != tuned.model
    assert base.n == 6  # three of each kind
    assert all({"stopped", "overrun", "tokens"} <= set(i.metrics) and i.ids for i in base.items)
    assert all(i.weight > 1 for i in base.items)  # three stand for all of their kind


def test_other_vocabularies_are_recorded_and_said(model_folder: Path, tuned_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(ModelSection(path=str(tuned_folder)), mirror=None)
    loaded.tokenizer.add_tokens(["Sorry"])
    loaded.model.resize_token_embeddings(len(loaded.tokenizer))
    for part in (loaded.model, loaded.tokenizer):
        part.save_pretrained(tmp_path / "wider")
    found = {folder.name: evaluate(ModelSection(path=str(folder)), ["refusal"], section=SECTION, template=FORM,
                                   mirror=None, out=tmp_path / "out" / folder.name)
             for folder in (model_folder, tuned_folder, tmp_path / "wider")}
    base, same, wider = found.values()
    kept = {"refusal": read_results(tmp_path / "out" / "wider", "refusal")}
    assert kept["refusal"].vocabulary == wider["refusal"].vocabulary != base["refusal"].vocabulary

    def notes(tuned: dict[str, SuiteResult]) -> str:
        return " ".join(compare(base, tuned, GateSection()).suites[0].notes)

    assert "vocabular" not in notes(same)
    assert "different vocabularies; compared are answers as text" in notes(kept)


def test_protocol_moves_with_everything_that_moves_a_score(model_folder: Path) -> None:
    here = ModelSection(path=str(model_folder))
    plain = protocol(suite("refusal"), SECTION, here, FORM)
    changed = [
        protocol(suite("format"), SECTION, here, FORM),
        protocol(suite("refusal"), SECTION.model_copy(update={"max_new_tokens": 7}), here, FORM),
        protocol(suite("refusal"), SECTION, here, ChatFormat(JINJA + "x", ("<|im_end|>",))),
        protocol(suite("refusal"), SECTION, ModelSection(path=str(model_folder), precision="bfloat16"), FORM),
    ]
    assert all(other != plain for other in changed)
    same = SECTION.model_copy(update={"batch_tokens": 1, "limit": 4, "looks": 3})
    assert protocol(suite("refusal"), same, here, FORM) == plain
    knowledge = [protocol(suite("mmlu"), SECTION, here, form) for form in (FORM, None)]
    assert knowledge[0] == knowledge[1]  # asked without the template, so it is no part of the protocol


def test_a_model_in_bfloat16_keeps_its_positions(model_folder: Path) -> None:
    section = ModelSection(path=str(model_folder), device="cpu", precision="bfloat16")
    network = load_respondent(section, None, None, EvalSection(suites=("facts",)), None).network
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    exact = load_model(section, mirror=None).model.model.rotary_emb.inv_freq
    assert torch.equal(network.model.rotary_emb.inv_freq, exact)


def test_finished_suites_are_not_run_again(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = ModelSection(path=str(model_folder))

    def again(section: EvalSection = SECTION) -> SuiteResult:
        return evaluate(here, ["refusal"], section=section, template=FORM, mirror=None, out=tmp_path)["refusal"]

    first = again()
    monkeypatch.setattr(respondent, "load_model", lambda *_, **__: pytest.fail("loaded again"))
    assert again() == first
    with pytest.raises(pytest.fail.Exception, match="loaded again"):
        again(SECTION.model_copy(update={"limit": 2}))
    (tmp_path / "refusal.json").write_text(json.dumps(
        json.loads((tmp_path / "refusal.json").read_text()) | {"model": "another"}))
    with pytest.raises(pytest.fail.Exception, match="loaded again"):
        again()


def test_a_chat_suite_needs_a_template(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="refusal asks through a chat template"):
        evaluate(ModelSection(path=str(model_folder)), ["refusal"], section=SECTION, template=None, mirror=None,
                 out=tmp_path)


def test_results_survive_the_disk(make_result: Callable[..., SuiteResult], tmp_path: Path) -> None:
    result = make_result([1.0, None, 0.5, 1.0, 0.5], suite="lm:some/task")
    item = result.items[0]._replace(metrics={"acc,none": 1.0}, answer="ünïcode\n")
    result = SuiteResult("lm:some/task", "capability", {"a": [1, None]}, (item, *result.items[1:]), 1.5, 2, "abc")
    path = write_results(tmp_path, result)
    assert read_results(tmp_path, "lm:some/task") == result
    head = json.loads(path.read_text())
    assert (head["score"], head["scored"], head["unscored"]) == (0.75, 4, 1)
    assert head["metrics"] == {"q/acc,none": 1.0}
    few = replace(result, min_scored=0.9)
    assert json.loads(write_results(tmp_path, few).read_text())["score"] is None
    assert read_results(tmp_path, "lm:some/task") == few
    path.unlink()
    with pytest.raises(EvalError, match="no complete results of suite 'lm:some/task'"):
        read_results(tmp_path, "lm:some/task")


def test_suites_load_and_misspellings_are_helped() -> None:
    assert set(load_suites()) >= {"tiny_mmlu", "tiny_gsm8k", "tiny_format", "tiny_refusal", "mmlu", "gsm8k", "format",
                                  "refusal"}
    with pytest.raises(EvalError, match="did you mean 'gsm8k'"):
        suite("gsm8")
    assert suite("lm:arc_easy").tasks == ("arc_easy",)
    for one in load_suites().values():
        if one.engine == "generate" and not one.reader:
            assert read_items(one)


def test_broken_items_are_named_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = {"id": "a", "kind": "benign", "cluster": "c", "messages": [{"role": "user", "content": "x"}],
            "expect": {"refuse": False}}
    file = tmp_path / "own.jsonl"
    monkeypatch.setattr(Suite, "items_file", property(lambda self: file))
    one = Suite(name="own", about="", kind="alignment", engine="generate", items="own.jsonl", max_new_tokens=1)
    for second, said in ((dict(good, id="b", kind="haiku"), "own.jsonl:2.*haiku"), ({"id": "b"}, "own.jsonl:2"),
                         (good, "an id twice")):
        file.write_text(json.dumps(good) + "\n" + json.dumps(second) + "\n")
        with pytest.raises(EvalError, match=said):
            read_items(one)
    file.unlink()
    with pytest.raises(EvalError, match="cannot be read"):
        read_items(one)
