"""pass@k, ROUGE-L against a pool, and which answers are kept."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from rouge_score.rouge_scorer import RougeScorer

from sft_core.synth.choose import ALIKE, WORSE, Answer, at_random, chosen
from sft_core.synth.pass_at import pass_at
from sft_core.synth.rouge import WORD, Alike, Pool, rouge_l

SEEDS = Path(__file__).parents[3] / "shared" / "data" / "self_instruct_seed" / "seed_tasks.jsonl"


@pytest.mark.parametrize(("k", "n", "c"), [(1, 1, 0), (1, 8, 3), (2, 5, 1), (3, 6, 4), (5, 5, 1), (4, 6, 6)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(k: int, n: int, c: int) -> None:
    right = [place < c for place in range(n)]
    subsets = list(itertools.combinations(right, k))
    assert pass_at(k, n, c) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


@pytest.mark.parametrize(("k", "n", "c"), [(0, 4, 1), (5, 4, 1), (1, 4, 5), (1, 4, -1)])
def test_pass_at_k_refuses_what_cannot_be(k: int, n: int, c: int) -> None:
    with pytest.raises(ValueError, match="k is 1 to n"):
        pass_at(k, n, c)


def some_texts() -> list[str]:
    draw = random.Random(3)
    words = ["the", "Cat", "sat", "on", "a", "mat", "snake_case", "it's", "42", "3.5", "—", "", "OK!"]
    made = [" ".join(draw.choices(words, k=draw.randint(0, 14))) for _ in range(60)]
    if SEEDS.exists():
        made += [json.loads(line)["instruction"] for line in SEEDS.read_text(encoding="utf-8").splitlines()[:60]]
    return [text for text in made if text.isascii() or "—" in text]


def test_rouge_l_is_that_of_rouge_score() -> None:
    texts, scorer = some_texts(), RougeScorer(["rougeL"], use_stemmer=False)
    pool = Pool(texts)
    for text, found in zip(texts, pool.nearest(texts), strict=True):
        every = [scorer.score(other, text)["rougeL"].fmeasure for other in texts]
        assert found.similarity == pytest.approx(max(every), abs=1e-6)
    pairs = random.Random(1).sample(list(itertools.product(texts, texts)), 300)
    for one, other in pairs:
        assert rouge_l(one, other) == pytest.approx(scorer.score(one, other)["rougeL"].fmeasure, abs=1e-6)


def test_a_least_similarity_changes_no_higher_one() -> None:
    texts = some_texts()
    pool = Pool(texts[:40])
    for whole, short in zip(pool.nearest(texts), pool.nearest(texts, least=0.6), strict=True):
        assert short == whole if whole.similarity >= 0.6 else short.similarity < 0.6


def test_scripts_without_spaces_are_taken_sign_by_sign() -> None:
    assert WORD.findall("東京 tower ガ") == ["東", "京", "tower", "ガ"]
    assert rouge_l("東京の天気", "東京の天候") == pytest.approx(0.8)
    assert rouge_l("übung macht", "Übung macht") == 1.0


def test_the_nearest_one_is_told_by_its_place() -> None:
    pool = Pool(["a b c", "d e f"])
    assert len(pool) == 2
    assert Pool().nearest(["a"]) == [Alike(0.0, -1)]
    assert pool.nearest(["d e f", "c"])[0] == Alike(1.0, 1)
    assert pool.nearest([""]) == [Alike(0.0, 0)]
    pool.add("d e f g")
    assert pool.nearest(["d e f g"], since=2) == [Alike(1.0, 2)]
    assert pool.nearest(["a b c"], since=2)[0].similarity == 0.0


def test_more_words_than_signs_below_the_surrogates() -> None:
    many = " ".join(f"w{n}" for n in range(60_000))
    pool = Pool([many])
    assert pool.nearest([many])[0].similarity == 1.0
    assert pool.nearest(["w59999 w1"])[0].similarity == pytest.approx(2 / 60_002, rel=1e-3)


def answers() -> list[Answer]:
    return [
        Answer(0, 0, "it is four apples in all", True, (0.5,)),
        Answer(0, 1, "it is four apples in all now", True, (0.9,)),
        Answer(0, 2, "count them one by one and you get 4", True, (0.1,)),
        Answer(0, 3, "five", False),
        Answer(1, 0, "no idea", False),
        Answer(2, 0, "yes", True, (0.0,)),
        Answer(2, 1, "yes", True, (0.0,)),
    ]


def test_the_best_that_are_not_alike_are_kept() -> None:
    assert chosen(answers(), keep=2, max_similarity=0.7) == {1: "", 0: ALIKE, 2: "", 5: "", 6: ALIKE}
    assert chosen(answers(), keep=1, max_similarity=0.7) == {1: "", 0: ALIKE, 2: WORSE, 5: "", 6: ALIKE}
    assert chosen(answers(), keep=9, max_similarity=1.0) == {0: "", 1: "", 2: "", 5: "", 6: ALIKE}


def test_the_baseline_is_as_large_and_takes_wrong_ones_too() -> None:
    said = chosen(answers(), keep=1, max_similarity=0.7)
    taken: Counter[int] = Counter()
    for seed in range(200):
        places = at_random(answers(), said, 1, seed)
        assert len(places) == 2
        assert len({answers()[at].prompt for at in places}) == 2
        taken.update(places)
    assert set(taken) == set(range(7))
    assert at_random(answers(), said, 1, 5) == at_random(answers(), said, 1, 5)
