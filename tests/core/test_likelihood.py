"""Perplexity and IFD of rows against plain transformers, and the scores that are made of facts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from transformers import LlamaConfig, LlamaForCausalLM

from eval_suites.backends.cache import Cached
from eval_suites.backends.contract import Continuation
from eval_suites.backends.local import Local
from sft_core.config.data import DataSection, TemplateSection
from sft_core.conversation import Conversation
from sft_core.data.curate import likelihood, scores
from sft_core.data.curate.likelihood import Asked, Scorer, families, opening_of, runs
from sft_core.data.curate.measure import column_in, facts_of, measure_shards
from sft_core.data.curate.scores import Alone, Grade, Grader, Likelihood
from sft_core.data.shards import write_shard
from sft_core.data.workers import InProcess
from sft_core.errors import EvalError, Interrupted
from sft_core.progress import progress
from sft_core.templates.choose import choose
from sft_core.templates.render import IGNORE, Renderer

TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}]
DATA = {"sources": [{"path": "x.jsonl"}], "max_tokens": 400}


@pytest.fixture(scope="module")
def model(byte_tokenizer: Any) -> Any:
    torch.manual_seed(3)
    found = LlamaForCausalLM(LlamaConfig(vocab_size=len(byte_tokenizer()), hidden_size=16, intermediate_size=32,
                                         num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=512))
    return found.double().eval()


@pytest.fixture
def scorer(model: Any, byte_tokenizer: Any) -> Callable[..., Scorer]:
    def make(batch_tokens: int = 4096, template: str = "chatml", keep: bool = False, **data: Any) -> Scorer:
        tokenizer, section = byte_tokenizer(), TemplateSection.model_validate({"name": template})
        renderer = Renderer(choose(section, tokenizer), tokenizer, section)
        local = Local(model, batch_tokens)

        def nats(folder: Path) -> Callable[[Sequence[Asked]], Iterator[tuple[int, float]]]:
            backend = Cached(local, folder, "m") if keep else local
            return lambda asked: ((at, -found.logprob) for at, found in backend.likelihoods(
                [Continuation(*one) for one in asked]))

        return Scorer(renderer, DataSection.model_validate(DATA | data), opening_of(renderer, tokenizer), nats)

    return make


@pytest.fixture
def rows(chat: Callable[..., Conversation]) -> list[Conversation]:
    """One answer, several, a call of a tool, a turn that is context, and a long one."""
    several = chat("s: be kind", "u: hi", "a: hello", "u: and?", "a: nothing more", line=2)
    context = several._replace(turns=tuple(turn._replace(masked=turn.content == "hello") for turn in several.turns))
    return [chat("u: hi", "a: yes"), several, context,
            chat("u: where?", 'c: find {"town": "Ulm"}', "t: here", "a: There it is.", tools=TOOLS, line=4),
            chat("u: " + "why " * 50, "a: " + "so " * 30, line=5)]


def facts(rows: Sequence[Conversation], scorer: Scorer, measure: Callable[..., Any] = likelihood.likelihoods
          ) -> list[Any]:
    with progress("x", len(rows), "rows") as bar:
        return list(measure(rows, scorer, scorer.nats(Path("unused")), bar))


def plainly(model: Any, ids: Sequence[int], targets: Sequence[int]) -> float:
    """Minus the log-probability of all targets, from the logits of one row."""
    with torch.no_grad():
        found = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return -sum(float(found[at, target]) for at, target in enumerate(targets) if target != IGNORE)


def test_perplexity_is_that_of_the_trained_tokens(rows: list[Conversation], scorer: Any, model: Any) -> None:
    made = scorer()
    found = facts(rows, made)
    for row, one in zip(rows, found, strict=True):
        (example,) = made.renderer.render(row).examples
        assert one.nats == pytest.approx(plainly(model, example.input_ids, example.targets), abs=1e-9)
        assert one.tokens == sum(target != IGNORE for target in example.targets)
    assert [one.tokens for one in found[:3]] == [4, len("hello") + 1 + len("nothing more") + 1, len("nothing more") + 1]
    measured = scores.perplexity(np.array([one.nats for one in found]), np.array([one.tokens for one in found]))
    assert measured == pytest.approx([math.exp(one.nats / one.tokens) for one in found])


def test_ifd_is_the_loss_over_the_loss_behind_nothing_but_the_opening(rows: list[Conversation], scorer: Any,
                                                                      model: Any, byte_tokenizer: Any) -> None:
    made = scorer()
    opening = byte_tokenizer().encode("<|im_start|>assistant\n", add_special_tokens=False)
    assert list(made.opening) == opening
    both = facts(rows, made), facts(rows, made, likelihood.alone)
    for row, behind, alone in zip(rows, *both, strict=True):
        (example,) = made.renderer.render(row).examples
        said = [[target for target in part.split(",")] for part in ",".join(map(str, example.targets)).split("-100")]
        expected = 0.0
        for part in said:
            ids = [int(one) for one in part if one]
            expected += plainly(model, opening + ids, [IGNORE] * (len(opening) - 1) + ids + [IGNORE])
        assert alone.alone_nats == pytest.approx(expected, abs=1e-9)
        ifd = scores.ifd(np.array([behind.nats]), np.array([alone.alone_nats]))
        assert ifd == pytest.approx([(behind.nats / behind.tokens) / (expected / behind.tokens)])


@pytest.mark.parametrize("batch_tokens", [40, 300])
@pytest.mark.parametrize("together", [1, 2])
def test_the_same_whatever_lies_beside_a_row(rows: list[Conversation], scorer: Any, batch_tokens: int, together: int,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    whole = facts(rows, scorer())
    monkeypatch.setattr(likelihood, "TOGETHER", together)
    parts = facts(rows, scorer(batch_tokens))
    assert [one.nats for one in parts] == pytest.approx([one.nats for one in whole], abs=1e-9)
    assert [one.tokens for one in parts] == [one.tokens for one in whole]


def test_a_row_that_is_not_trained_has_no_score(rows: list[Conversation], scorer: Any) -> None:
    found = facts(rows, scorer(max_tokens=120))
    assert [one.nats is None for one in found] == [False, False, False, True, True]
    assert found[4].why.endswith(" tokens, 120 allowed")
    masked = rows[0]._replace(turns=tuple(turn._replace(masked=True) for turn in rows[0].turns))
    assert facts([masked], scorer()) == [Likelihood(None, 0, "no token of an assistant turn is trained")]
    assert facts([masked], scorer(), likelihood.alone) == [Alone(None)]


def test_logits_that_are_not_finite_are_no_score(rows: list[Conversation], scorer: Any) -> None:
    broken = scorer()._replace(nats=lambda _: lambda asked: ((at, math.nan) for at in range(len(asked))))
    assert {one.why for one in facts(rows, broken)} == {"the model's logits are not finite"}


def test_runs_are_behind_all_that_stands_before_them(rows: list[Conversation], scorer: Any) -> None:
    (example,) = scorer().renderer.render(rows[1]).examples
    first, second = runs(example)
    assert bytes(second.context[-10:]) == b"assistant\n"
    assert bytes(second.said[:-1]) == b"nothing more"
    assert (*first.context, *first.said) == second.context[: len(first.context) + len(first.said)]


@pytest.mark.parametrize(("name", "opening"), [
    ("chatml", "<|im_start|>assistant\n"), ("alpaca", "\n\n### Response:\n"), ("mistral", "[/INST]"),
    ("llama3", "<|start_header_id|>assistant<|end_header_id|>\n\n"), ("zephyr", "<|assistant|>\n")])
def test_what_opens_an_answer(scorer: Any, byte_tokenizer: Any, name: str, opening: str) -> None:
    assert scorer(template=name).renderer.template.opening().strip(" ") == opening
    with_bos = byte_tokenizer(bos_token="<|pad|>", chat_template="{{ bos_token }}{% for m in messages %}{{ m.content }}"
                              "{{ eos_token if m.role == 'assistant' }}{% endfor %}")
    section = TemplateSection(name="model")
    renderer = Renderer(choose(section, with_bos), with_bos, section)
    assert opening_of(renderer, with_bos) == (with_bos.bos_token_id,), "it writes nothing between the two"


def test_a_killed_measurement_goes_on_where_it_was(rows: list[Conversation], scorer: Any, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    for number, some in enumerate((rows[:3], rows[3:])):
        write_shard(tmp_path / "in" / f"{number:06d}.parquet", some)
    asked: list[Asked] = []
    made = scorer(keep=True)
    inner = made.renderer, made.nats

    def noting(folder: Path, stop: int | None = None) -> Any:
        def of(those: Sequence[Asked]) -> Iterator[tuple[int, float]]:
            for at, found in inner[1](folder)(those):
                if len(asked) == stop:
                    raise Interrupted("stopped")
                asked.append(those[at])
                yield at, found

        return of

    def measure(stop: int | None) -> None:
        (family,) = families(["perplexity"], (), None, lambda: made._replace(nats=partial(noting, stop=stop)))
        with progress("x", 5, "rows") as bar:
            measure_shards(family, tmp_path / "in", tmp_path / "out", InProcess(), bar)

    with pytest.raises(Interrupted):
        measure(5)
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == [".000001", "000000.parquet"]
    computed: list[int] = []
    likelihoods = Local.likelihoods
    monkeypatch.setattr(Local, "likelihoods", lambda self, those: (computed.append(len(those)),
                                                                   likelihoods(self, those))[1])
    measure(None)
    assert computed == [1], "of three runs in the second shard two were kept"
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["000000.parquet", "000001.parquet"]
    whole = facts(rows, scorer())
    assert column_in(tmp_path / "out", "nats") == pytest.approx([one.nats for one in whole], abs=1e-9)
    assert [one.tokens for one in facts_of(tmp_path / "out", Likelihood)] == [one.tokens for one in whole]
    assert pq.read_table(tmp_path / "out" / "000000.parquet").column_names == ["nats", "tokens", "why"]


def test_missing_is_not_zero() -> None:
    nats, tokens = np.array([np.nan, 2.0, 4000.0, 0.0]), np.array([0.0, 2.0, 2.0, 1.0])
    measured = scores.perplexity(nats, tokens)
    assert np.isnan(measured[0])
    assert measured[1:].tolist() == [math.e, math.inf, 1.0]
    ratio = scores.ifd(nats, np.array([1.0, 4.0, np.nan, 0.0]))
    assert ratio[1] == 0.5
    assert np.isnan(ratio[[0, 2, 3]]).all()
    assert scores.spread(measured) == {"rows": 2, "without": 2, **{
        name: pytest.approx(1 + share * (math.e - 1)) for name, share in scores.QUANTILES.items()}}
    assert set(scores.spread(nats[:1]).values()) == {0, 1, None}
    assert list(scores.outside("perplexity", np.array([1.0, np.nan, 900.0, 2.0]), (1.5, 500))) == [
        (0, "perplexity 1, below 1.5"), (2, "perplexity 900, above 500")]
    assert list(scores.outside("ifd", np.array([1.0, 1.1]), (None, 1))) == [(1, "ifd 1.1, above 1")]


def test_a_judge_that_fails_too_often_stops(rows: list[Conversation]) -> None:
    said = iter([Grade(7.0), Grade(None, "the judge gave no verdict: ''"), Grade(None, "HTTP 500", answered=False),
                 Grade(2.0), Grade(3.0)])
    grader = Grader(None, 0.4, lambda some: [next(said) for _ in some], lambda: "nothing")
    found = scores.graded(grader, enumerate(rows), len(rows))
    assert [found[row].value for row in range(5)] == [7, None, None, 2, 3]
    assert scores.told(found.values()) == {"asked": 5, "graded": 3, "not answered": 1, "no grade in the reply": 1}
    said = iter([*found.values()])
    with pytest.raises(EvalError, match=r"2 of 5 rows .* no grade, 1 of them because it did not answer, and "
                       r"data.scores.judge.max_ungraded_share allows 0.3 of 5; the first: the judge gave no verdict"):
        scores.graded(grader._replace(most_ungraded=0.3), enumerate(rows), len(rows))


@pytest.mark.parametrize(("said", "match"), [
    ({"select": {"n": 3, "by": "ifd"}}, r"by is ifd, which nothing measures; add it to data.scores.measure: \[ifd\]"),
    ({"select": {"n": 3, "by": "judge"}}, "by is judge, which nothing measures; give data.scores.judge.endpoint"),
    ({"select": {"n": 3, "by": "nosuch"}}, "quality"),
    ({"scores": {"keep": {"perplexity": [2, 5]}}}, "keep names perplexity, which nothing measures"),
    ({"scores": {"measure": ["ifd"], "keep": {"ifd": [2, 1]}}}, r"\[2, 1\] keeps no row"),
    ({"scores": {"measure": ["ifd"], "keep": {"ifd": [None, None]}}}, "keeps every row"),
    ({"scores": {"model": "gpt2"}}, "measure names nothing"),
])
def test_what_cannot_be_meant_is_said_at_once(said: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        DataSection.model_validate(DATA | said)
    assert DataSection.model_validate(DATA | {"scores": {"measure": ["ifd"]}, "select": {"n": 3, "by": "ifd"}})
