"""Variants change the question and never the answer; drops from the clean form are paired."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from eval_suites.results import ItemResult, SuiteResult
from eval_suites.scorers.registry import score
from eval_suites.statistics.robustness import Drop, drop_rows, drops
from eval_suites.suites.chat_item import ChatItem
from eval_suites.suites.items import read_items
from eval_suites.suites.perturb import CHOICE, DISTRACTORS, FIXED, PARAPHRASES, VARIANTS
from eval_suites.suites.suite import suite
from sft_core.config.evaluate import Limit

CLEAN = read_items(suite("robustness").model_copy(update={"variants": ()}))
FORMAT = read_items(suite("format"))


def asked(item: ChatItem) -> str:
    return item.messages[-1]["content"]


def words(text: str) -> list[str]:
    return text.casefold().split()


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_the_same_in_every_run_and_leave_the_item_alone(name: str) -> None:
    for item in CLEAN:
        before = repr(item)
        changed = VARIANTS[name](item)
        assert changed == VARIANTS[name](item)
        assert repr(item) == before
        assert (changed.item_id, changed.kind, changed.messages[:-1]) == (item.item_id, item.kind, item.messages[:-1])
        assert name == "option_order" or changed.expect == item.expect


@pytest.mark.parametrize("name", VARIANTS)
def test_numbers_quotes_and_schemas_stay_as_they_are(name: str) -> None:
    for item in CLEAN + FORMAT:
        changed = asked(VARIANTS[name](item))
        assert Counter(re.findall(r"\d+", changed)) == Counter(re.findall(r"\d+", asked(item))), item.item_id
        if name != "option_order":
            for fixed in FIXED.findall(asked(item)):
                assert fixed in changed.replace(" \n\n\n", "\n\n"), item.item_id


def test_typing_errors_are_few_and_spare_the_answer() -> None:
    shares = []
    for item in CLEAN:
        changed = asked(VARIANTS["typos"](item))
        assert changed != asked(item)
        before, after = asked(item).split(), changed.split()
        assert len(before) == len(after)
        shares.append(sum(a != b for a, b in zip(before, after, strict=True)) / len(before))
        for answer in (one for key in ("answers", "others", "options") for one in item.expect.get(key, ())):
            assert asked(item).casefold().count(answer.casefold()) == changed.casefold().count(answer.casefold())
    assert 0.03 < sum(shares) / len(shares) < 0.15


def test_each_variant_does_what_its_name_says() -> None:
    for item in CLEAN:
        text, done = asked(item), {name: asked(change(item)) for name, change in VARIANTS.items()}
        assert done["lower"].casefold() == done["upper"].casefold() == text.casefold()
        open_lower, open_upper = FIXED.sub("", done["lower"]), FIXED.sub("", done["upper"])
        assert (open_lower, open_upper) == (open_lower.lower(), open_upper.upper())
        assert words(done["whitespace"]) == words(text)
        assert len(done["whitespace"]) > len(text)
        assert text in done["paraphrase"]
        assert done["paraphrase"] in [one.replace("{text}", text) for one in PARAPHRASES]
        assert sorted(done["instruction_first"].split("\n\n")) == sorted(text.split("\n\n"))
        assert done["instruction_first"].startswith(text.split("\n\n")[-1])
        assert done["distractor"].endswith(" " + text)
    assert len({asked(VARIANTS["paraphrase"](item)).replace(asked(item), "") for item in CLEAN}) == len(PARAPHRASES)


def test_the_answers_letter_moves_along_with_its_text() -> None:
    letters: Counter[str] = Counter()
    for item in (one for one in CLEAN if one.kind == "letter"):
        changed = VARIANTS["option_order"](item)
        before, after = dict(CHOICE.findall(asked(item))), dict(CHOICE.findall(asked(changed)))
        assert sorted(before.values()) == sorted(after.values())
        assert before[item.expect["letter"]] == after[changed.expect["letter"]]
        assert changed.expect["letter"] != item.expect["letter"]
        assert list(after.values()) == changed.expect["options"]
        assert score("letter", changed.expect, str(changed.reference)).value == 1.0
        assert score("letter", changed.expect, str(item.reference)).value == 0.0
        letters[changed.expect["letter"]] += 1
    assert set(letters) == set("ABCD")
    assert all(VARIANTS["option_order"](item) == item for item in CLEAN if item.kind != "letter")


def test_a_distractor_names_nothing_that_is_asked_for() -> None:
    def item(*expected: str) -> ChatItem:
        return CLEAN[0]._replace(expect={"answers": list(expected)})

    names = ["chain", "fence", "library", "scarf", "song"]
    assert asked(VARIANTS["distractor"](item(*names))).startswith(DISTRACTORS[-1])
    assert VARIANTS["distractor"](item(*names, "bread")) == item(*names, "bread")


def test_a_distractor_shares_no_stem_with_the_question() -> None:
    def stems(text: str) -> set[str]:
        return {word[:4].casefold() for word in words(text) if len(word) > 3}

    for item in CLEAN:
        text = asked(item)
        assert not stems(asked(VARIANTS["distractor"](item)).removesuffix(text)) & stems(text)


def test_typing_errors_spare_names() -> None:
    names = "Dr Sato, Osaka, Ghent and Quito are in Lima and 3 Rome"
    slips = {asked(VARIANTS["typos"](CLEAN[0]._replace(item_id=str(n), messages=[{"role": "user", "content": names}])))
             for n in range(30)}
    assert slips == {names}


def test_the_suite_asks_every_item_clean_and_in_every_form_that_it_has() -> None:
    items = read_items(suite("robustness"))
    tasks = Counter(item.task for item in items)
    assert tasks.pop("clean") == len(CLEAN) >= 60
    assert tasks.pop("option_order") == sum(item.kind == "letter" for item in CLEAN)
    assert set(tasks.values()) == {len(CLEAN)}
    assert {item.cluster for item in items} == {item.item_id for item in CLEAN}
    assert next(item for item in items if item.task == "typos").item_id == f"{CLEAN[0].item_id}~typos"


def test_languages_ask_the_same_tasks() -> None:
    few = read_items(suite("multilingual"), Limit(5))
    assert Counter(item.cluster for item in few) == dict.fromkeys({item.cluster for item in few}, 8)
    items = read_items(suite("multilingual"))
    assert {item.task for item in items} == {"en", "de", "fr", "es", "zh", "hi", "ar", "ja"}
    asked_in = Counter(item.cluster for item in items)
    assert len(asked_in) == 16
    assert set(asked_in.values()) == {8}


def row(task: str, cluster: str, value: float | None, weight: float = 1.0) -> ItemResult:
    return ItemResult("r", task, f"{cluster}~{task}", cluster, value, {}, "", "", "", "", "", "", weight)


def result(rows: list[ItemResult]) -> SuiteResult:
    return SuiteResult("r", "capability", {}, tuple(rows), 0.0)


def test_drops_are_paired_with_their_intervals(make_result: Callable[..., SuiteResult]) -> None:
    rows = [row("clean", str(i), float(i < 40)) for i in range(50)]
    rows += [row("typos", str(i), float(i < 30)) for i in range(50)]
    rows += [row("upper", str(i), float(i < 40)) for i in range(50)]
    worst, none = drops(result(rows))
    assert (worst.variant, worst.clean, worst.score, worst.items) == ("typos", 0.8, 0.6, 50)
    assert worst.points == pytest.approx(20.0)
    assert worst.low is not None
    assert worst.high is not None
    assert 5 < worst.low < 20 < worst.high < 35
    assert (none.variant, none.points) == ("upper", 0.0)
    wider = drops(result(rows), alpha=0.01)[0]
    assert wider.low is not None
    assert wider.low < worst.low
    assert drops(make_result([1.0, 0.0])) == []


def test_items_without_a_score_or_a_partner_are_left_out() -> None:
    rows = [row("en", "a", 1.0), row("en", "b", 1.0), row("en", "c", None), row("de", "a", 0.0), row("de", "b", None),
            row("de", "c", 1.0), row("de", "d", 1.0), row("fr", "c", 1.0)]
    assert {drop.points for drop in drops(result(rows))} == {None}, "a third is too little"
    german, french = drops(replace(result(rows), min_scored=0.0))
    assert (german.variant, german.items, german.points) == ("de", 1, 100.0)
    assert french == Drop("fr", None, None, None, None, None, 0)


def test_drops_of_two_models_stand_side_by_side() -> None:
    base = [row("clean", str(i), 1.0) for i in range(20)] + [row("typos", str(i), 1.0) for i in range(20)]
    tuned = [row("clean", str(i), 1.0) for i in range(20)] + [row("typos", str(i), float(i < 15)) for i in range(20)]
    shown, = drop_rows(result(base), result(tuned))
    assert (shown["form"], shown["items"]) == ("typos", "20")
    assert shown["base"].startswith("+0.0 (")
    assert shown["tuned"].startswith("+25.0 (+")
    alone, = drop_rows(result([row("clean", "a", None)]), result(tuned))
    assert alone["base"] == "–"
    assert drop_rows(result(tuned[:20]), result(tuned[:20])) == []


def test_drops_weigh_the_items_of_a_sample() -> None:
    rows = [row("clean", "a", 1.0, 9.0), row("clean", "b", 1.0, 1.0)]
    rows += [row("typos", "a", 1.0, 9.0), row("typos", "b", 0.0, 1.0)]
    drop, = drops(result(rows))
    assert drop.points == pytest.approx(10.0)
