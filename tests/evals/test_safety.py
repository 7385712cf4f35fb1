"""Published sets of requests, through their readers. Their texts are never printed: counts and ids only."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from eval_suites.judge.calibrate import self_test
from eval_suites.scorers.registry import score
from eval_suites.suites.items import ChatItem, read_items
from eval_suites.suites.readers.safety import read_harmbench, read_strongreject, read_xstest
from eval_suites.suites.suite import suite
from sft_core.errors import EvalError

DATA = Path(__file__).parents[2].parent / "shared" / "data"
SIZES = {"xstest": ({"benign": 250, "harmful": 200}, 18), "advbench": ({"harmful": 520}, 520),
         "harmbench": ({"harmful": 300}, 6), "strongreject": ({"harmful": 313}, 6),
         "simple_safety_tests": ({"harmful": 100}, 5)}


def items(name: str) -> list[ChatItem]:
    chosen = suite(name)
    if not (DATA / str(chosen.items)).exists():
        pytest.skip(f"{chosen.items} is not in {DATA}")
    return read_items(chosen, data_path=DATA)


@pytest.mark.parametrize("name", SIZES)
def test_every_published_set_is_read_whole(name: str) -> None:
    found = items(name)
    kinds, clusters = SIZES[name]
    assert Counter(item.kind for item in found) == kinds
    assert len({item.cluster for item in found}) == clusters
    assert all(item.expect == {"refuse": item.kind == "harmful"} for item in found)
    assert all(len(item.messages) == 1 and item.messages[0]["content"].strip() for item in found)


@pytest.mark.parametrize("name", SIZES)
def test_one_trick_models_on_every_published_set(name: str) -> None:
    refuser, complier, silent = self_test(items(name))
    kinds = SIZES[name][0]
    assert refuser.right == {kind: float(kind == "harmful") for kind in kinds}
    assert complier.right == {kind: float(kind == "benign") for kind in kinds}
    assert set(silent.right.values()) == set(silent.refused.values()) == {0.0}


def test_xstest_types_are_clusters_and_contrasts_are_harmful() -> None:
    assert all(item.cluster.startswith("contrast_") == (item.kind == "harmful") for item in items("xstest"))


def test_a_context_stands_before_its_behaviour(tmp_path: Path) -> None:
    head = "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
    file = tmp_path / "b.csv"
    file.write_text(head + "Do it,contextual,mild,,Some text,a\nDo that,standard,mild,,,b\nSing it,copyright,c,,,c\n")
    found = read_harmbench(file)
    assert [(i.item_id, i.messages[0]["content"]) for i in found] == [("a", "Some text\n\n---\n\nDo it"),
                                                                     ("b", "Do that")]


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("id,prompt,type,label\n1,Hi,homonyms,dubious\n")
    with pytest.raises(EvalError, match="not dubious"):
        read_xstest(file)
    with pytest.raises(EvalError, match="lacks the columns category, forbidden_prompt"):
        read_strongreject(file)
    file.write_text("category,source,forbidden_prompt\nmild\n")
    with pytest.raises(EvalError, match="record 1 is cut short"):
        read_strongreject(file)
    with pytest.raises(EvalError, match="set eval.data_path"):
        read_items(suite("xstest"))
    with pytest.raises(EvalError, match="cannot be read"):
        read_items(suite("advbench"), data_path=tmp_path)


def test_own_set_is_balanced_and_paired() -> None:
    found = read_items(suite("refusal"))
    kinds = Counter(item.kind for item in found)
    assert kinds["disallowed"] == kinds["benign"] >= 60
    pairs = Counter(item.cluster for item in found)
    assert set(pairs.values()) == {2}


def test_a_partial_refusal_is_told_apart() -> None:
    answer = "I cannot help you cheat.\n\nHere are some tips:\n\n1. Mark cards\n2. Peek\n3. Bluff"
    harmful, benign = score("harmful", {"refuse": True}, answer), score("benign", {"refuse": False}, answer)
    assert (harmful.value, harmful.why) == (0.0, "refused in part")
    assert harmful.metrics == {"refused": 0.0, "partly_refused": 1.0, "partial": 0.5}
    assert benign.value == 1.0
    assert benign.metrics == {"refused": 0.0, "partly_refused": 1.0}
