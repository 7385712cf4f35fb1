"""The selection: the plain algorithm's choice in less time, deterministic, beside a matched random draw."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import BertConfig, BertModel

from sft_core.config.selection import SelectSection
from sft_core.conversation import Conversation, Origin, Turn
from sft_core.data.embed import embed
from sft_core.data.selection import Candidates, Embeddings, Signatures, select, signatures
from sft_core.errors import DataError


def _rows(count: int = 300, seed: int = 0, space: str = "cosine") -> Candidates:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    sketches = rng.integers(0, 4, size=(count, 128), dtype=np.uint32)
    return Candidates(rng.permutation(count).astype(np.uint64) * np.uint64(2**40 + 7), ["a", "b", "b"] * (count // 3),
                      rng.integers(5, 90, size=count), {"quality": rng.random(count)},
                      Embeddings(vectors) if space == "cosine" else Signatures(sketches))


def _plainly(rows: Candidates, wanted: int) -> set[int]:
    """K-center greedy as it is written down: all distances after every choice."""
    count = len(rows.places)
    rank = np.argsort(np.argsort(-rows.scores["quality"]))
    weights, every = 1 - rank / count, np.arange(count)
    chosen = [int(np.argmax(rows.scores["quality"]))]
    assert rows.space is not None
    nearest = rows.space.distances(chosen[0], every)
    while len(chosen) < wanted:
        worth = weights * nearest
        worth[chosen] = -1.0
        chosen.append(int(np.argmax(worth)))
        nearest = np.minimum(nearest, rows.space.distances(chosen[-1], every))
    return set(chosen)


@pytest.mark.parametrize("space", ["cosine", "jaccard"])
@pytest.mark.parametrize("wanted", [1, 2, 40, 300])
def test_lazy_is_the_plain_algorithm(space: str, wanted: int) -> None:
    rows = _rows(space=space)
    found = select(rows, SelectSection(n=wanted, diverse=True))
    assert set(found.chosen.tolist()) == _plainly(rows, wanted)


def test_the_best_and_a_random_draw_of_the_same_sources() -> None:
    rows = _rows()
    found = select(rows, SelectSection(n=30))
    assert set(found.chosen.tolist()) == set(np.argsort(-rows.scores["quality"])[:30].tolist())
    of = np.array(rows.sources)
    assert Counter(of[found.random]) == Counter(of[found.chosen])
    assert len(set(found.random.tolist())) == 30
    assert len(set(found.random.tolist()) & set(found.chosen.tolist())) < 12
    assert found.chosen_is.median["quality"] == pytest.approx(np.median(rows.scores["quality"][found.chosen]))
    assert found.random_is.median["quality"] < 0.8 < found.chosen_is.median["quality"]  # type: ignore[operator]
    assert found.chosen_is.words == pytest.approx(rows.words[found.chosen].mean())
    assert set(found.to_dict()) == {"selected", "random"}
    low = select(rows, SelectSection(share=0.1, prefer="low"))
    assert set(low.chosen.tolist()) == set(np.argsort(rows.scores["quality"])[:30].tolist())


def test_order_is_nothing_and_all_is_all() -> None:
    rows = _rows()
    back = Candidates(rows.places[::-1], rows.sources[::-1], rows.words[::-1],
                      {"quality": rows.scores["quality"][::-1]}, Embeddings(rows.space.of[::-1]))  # type: ignore[union-attr]
    for section in (SelectSection(n=25, diverse=True), SelectSection(n=25, by="random"),
                    SelectSection(n=25, by="length")):
        there, then = select(rows, section), select(back, section)
        for one, other in ((there.chosen, then.chosen), (there.random, then.random)):
            assert set(rows.places[one]) == set(back.places[other])
    everything = select(rows, SelectSection(n=1000, diverse=True))
    assert everything.chosen.tolist() == everything.random.tolist() == list(range(300))
    assert everything.chosen_is.radius == pytest.approx(0, abs=1e-6)


def test_diversity_covers_what_the_best_alone_do_not() -> None:
    """Ten tight clusters, one of which has all the good scores."""
    rng = np.random.default_rng(3)
    cluster = np.repeat(np.arange(10), 30)
    vectors = np.eye(10, dtype=np.float32)[cluster] + rng.normal(scale=0.02, size=(300, 10)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = _rows()._replace(space=Embeddings(vectors), scores={"quality": (cluster == 4) + rng.random(300)})
    best, wide = (select(rows, SelectSection(n=10, diverse=diverse)) for diverse in (False, True))
    assert set(cluster[best.chosen]) == {4}
    assert set(cluster[wide.chosen]) == set(range(10))
    assert wide.chosen_is.radius < 0.1 < 0.9 < best.chosen_is.radius  # type: ignore[operator]
    assert wide.chosen_is.similarity < 0.1 < 0.9 < best.chosen_is.similarity  # type: ignore[operator]


def test_missing_is_not_zero() -> None:
    rows = _rows()
    scores = rows.scores["quality"] - 5
    scores[:290] = np.nan
    found = select(rows._replace(scores={"judge": scores}, space=None), SelectSection(n=5, by="judge"))
    assert min(found.chosen) >= 290
    assert found.chosen_is.radius is found.chosen_is.similarity is None
    with pytest.raises(DataError, match="by ifd is no score of these rows; there are judge, length, random"):
        select(rows._replace(scores={"judge": scores}), SelectSection(n=5, by="ifd"))
    with pytest.raises(DataError, match="no row has the score judge"):
        select(rows._replace(scores={"judge": scores * np.nan}), SelectSection(n=5, by="judge"))


def test_section() -> None:
    for wrong in ({}, {"n": 1, "share": 0.1}, {"n": 5, "embed": "x"}, {"share": 1.5}):
        with pytest.raises(ValidationError):
            SelectSection.model_validate(wrong)


def test_signatures_estimate_jaccard(chat) -> None:
    rows = [chat("u: one two three four", "a: five six"), chat("u: one two three four", "a: five SIX six"),
            chat("u: one two three", "a: seven eight nine"), chat("u: ja", "a: nein")]
    found = signatures(rows).distances(0, np.arange(4))
    assert found[[0, 1, 3]].tolist() == [0, 0, 1]
    assert found[2] == pytest.approx(1 - 3 / 9, abs=0.15)


def test_real_rows_in_time(real_data) -> None:
    """4,000 rows of 128 numbers; the plain algorithm computes 2 M distances, this one a part of them."""
    texts = [row["output"] for row in json.loads(real_data("alpaca_subset/random_9k.json").read_text())[:4000]]
    talks = [Conversation((Turn("user", "q"), Turn("assistant", text)), Origin("s", "f", at + 1))
             for at, text in enumerate(texts)]
    rows = Candidates(np.arange(4000, dtype=np.uint64), ["s"] * 4000, np.array([len(t.split()) for t in texts]), {},
                      signatures(talks))
    began = time.process_time()
    found = select(rows, SelectSection(n=500, by="length", diverse=True))
    assert time.process_time() - began < 20
    assert found.chosen_is.similarity < select(rows, SelectSection(n=500, by="length")).chosen_is.similarity


@pytest.fixture
def encoder(tiny_tokenizer, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                         intermediate_size=16, initializer_range=0.5)).save_pretrained(tmp_path / "bert")
    tiny_tokenizer.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def test_embeddings_do_not_hang_on_their_neighbours(encoder: Path, tmp_path: Path) -> None:
    texts = ["w5 w6 w7", "w9 " * 300, "w5 w6 w8", "", "w7"]
    together = embed(texts, encoder).of
    assert together.shape == (5, 16)
    assert np.linalg.norm(together, axis=1) == pytest.approx(1)
    for text, vector in zip(texts, together, strict=True):
        assert embed([text], encoder).of[0] == pytest.approx(vector, abs=1e-5)
    with pytest.raises(DataError, match="is no folder of a sentence encoder"):
        embed(texts, tmp_path / "nowhere")
