"""The report: its tables, the plot, and items side by side."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval_suites.report.plot import forest_png, forest_svg
from eval_suites.report.tables import NONE, Report, report
from eval_suites.results import SuiteResult
from eval_suites.statistics.floor import Floor
from eval_suites.verdict.flips import flips, word_diff
from eval_suites.verdict.known import Known, Names
from eval_suites.verdict.verdict import Check, Part, Verdict, compare
from sft_core.config.evaluate import GateSection

Make = Callable[..., SuiteResult]
Sides = tuple[Verdict, dict[str, SuiteResult], dict[str, SuiteResult]]


@pytest.fixture
def sides(make_result: Make) -> Sides:
    """Facts get worse, format improves; one item of facts has no score on either side."""
    base = {"facts": make_result([1.0] * 60 + [0.0] * 39 + [None]),
            "format": make_result([0.0] * 40 + [1.0] * 10, suite="format", kind="alignment")}
    tuned = {"facts": make_result([0.0] * 60 + [0.0] * 38 + [1.0, None]),
             "format": make_result([1.0] * 50, suite="format", kind="alignment")}
    return compare(base, tuned, GateSection(max_tax=2.0)), base, tuned


def table(made: Report, title: str) -> list[dict[str, str]]:
    return next(t.rows for t in made.tables if t.title.startswith(title))


def with_suite(verdict: Verdict, name: str, **changes: object) -> Verdict:
    """The verdict with other fields of one suite."""
    return replace(verdict, suites=tuple(
        replace(one, **changes) if one.suite == name else one  # type: ignore[arg-type]
        for one in verdict.suites))


def test_wins_stand_against_tax(sides: Sides) -> None:
    verdict, base, tuned = sides
    made = report(replace(verdict, names=Names("old", "new")), base, tuned)
    assert (made.gate, made.reason) == (verdict.gate, verdict.reason)
    (win,), (tax,) = table(made, "Wins"), table(made, "Tax")
    assert (win["suite"], win["old"], win["new"], win["win"], win["outcome"]) == (
        "format", "20.0", "100.0", "+80.0", "improved (proved)")
    assert (tax["suite"], tax["old"], tax["new"], tax["tax"], tax["outcome"]) == (
        "facts", "60.6", "1.0", "+59.6", "worse (proved)")
    assert (tax["items"], tax["lost / gained"]) == ("99 of 100", "60 / 1")
    assert re.fullmatch(r"\+\d+\.\d to \+\d+\.\d", tax["95 % interval"])
    titles = [one.title for one in made.tables]
    assert "A/A floor" not in titles, "nothing was asked again, and rows of dashes say nothing"
    whole = with_suite(verdict, "facts", uncontaminated=Part(59.6, 50.0, 60.0, 99))
    assert not any("found in the training" in one.title for one in report(whole, base, tuned).tables), "all are there"
    assert table(made, "Items without a score")[0]["reason"] == "wrong"


def test_two_models_are_called_by_their_names_wherever_they_are_told_of(make_result: Make) -> None:
    """A comparison of two tuned models spoke of "the base" in notes, of "tuned − base" on axes, and of "its base" in
    the sentence of the gate."""
    sides: list[dict[str, SuiteResult]] = []
    for share, words in ((40, "a"), (0, "b")):
        facts = make_result([1.0] * share + [0.0] * (60 - share))
        items = tuple(one._replace(metrics={"overrun": 1.0, "refused": 1.0}) for one in facts.items)
        form = make_result([1.0] * share + [0.0] * (60 - share), suite="format", kind="alignment")
        zero = make_result([0.0] * 60, suite="nothing")
        gone = make_result([None] * 60, suite="gone")
        sides.append({"facts": replace(facts, items=items, vocabulary=words), "format": form, "nothing": zero,
                      "gone": gone})
    known = Known(floors={"facts": Floor("facts", 8, 2, 2, 0.5)}, names=Names("first", "second"))
    verdict = compare(sides[0], sides[1], GateSection(must_improve=("format",)), known)
    made = report(verdict, *sides)
    told = " ".join([made.reason, forest_svg(verdict), *(part.note for part in made.tables),
                     *(f"{head} {text}" for part in made.tables for row in part.rows for head, text in row.items())])
    assert "60 of 60 answers of first and 60 of 60 answers of second" in told
    assert {"win (second − first)", "tax (first − second)"} <= set(re.findall(r"(?:win|tax) \([^)]*\)", told))
    assert not re.search(r"\b(base|tuned)\b", told), re.findall(r".{40}\b(?:base|tuned)\b.{20}", told)


def test_terminal_and_page_show_the_same_to_the_last_digit(sides: Sides) -> None:
    """The page said that a margin of 2.0 was 2."""
    verdict, base, tuned = sides
    made = report(verdict, base, tuned)
    for told, title in zip(verdict.rows(), ("Tax", "Wins"), strict=True):
        shown, = table(made, title)
        kind = "tax" if "tax" in shown else "win"
        assert f"{kind} {shown.pop(kind)}" == told["tax / win"]
        assert shown.items() <= told.items()


def test_margin_floor_clean_items_and_checks_are_shown(sides: Sides) -> None:
    verdict, base, tuned = sides
    full = with_suite(verdict, "facts", margin=2.5, mde=7.25, looks=(2, 4), floor=Floor("facts", 8, 0, 2, 0.013),
                      uncontaminated=Part(40.0, 30.0, 50.0, 77), notes=("only a sample",))
    made = report(replace(full, checks=(Check("parity", passed=False, why="token 3 differs"),)), base, tuned)
    assert (table(made, "Tax")[0]["margin"], table(made, "Tax")[0]["detectable"]) == ("2.5", "7.2")
    floor = table(made, "A/A floor")[0]
    assert floor["model"] == "base"
    assert (floor["items asked again"], floor["changed, same settings"], floor["changed, other batch"],
            floor["largest change"]) == ("8", "0", "2", "1.3 points")
    clean = table(made, "Without items")[0]
    assert (clean["not trained on"], clean["of these"]) == ("+40.0 (+30.0 to +50.0)", "77")
    assert table(made, "Checks")[0] == {"check": "parity", "passed": "NO", "why": "token 3 differs"}
    assert table(made, "Notes")[0]["note"] == "only a sample"
    assert table(made, "How")[0]["looks"] == "2 of 4"


def test_the_floor_of_another_model_says_whose_it_is(sides: Sides) -> None:
    verdict, base, tuned = sides
    floor = Floor("facts", 8, 0, 2, 0.013, "the base of run one")
    assert table(report(with_suite(verdict, "facts", floor=floor), base, tuned), "A/A floor")[0]["model"] == (
        "the base of run one")


def test_scores_side_by_side_are_of_the_same_items(make_result: Make) -> None:
    """Base 50.0, tuned 51.8 and a win of +0.0: each was the mean over its own items."""
    scores = [1.0, 0.0] * 32
    base = make_result(scores, suite="format", kind="alignment")
    tuned = replace(base, items=tuple(item._replace(score=None) if n in (1, 3, 5) else item
                                      for n, item in enumerate(base.items)))
    base, tuned = (replace(side, items=tuple(item._replace(task=f"t{n // 32}") for n, item in enumerate(side.items)))
                   for side in (base, tuned))
    made = report(compare({"format": base}, {"format": tuned}, GateSection()), {"format": base}, {"format": tuned})
    win, = table(made, "Wins")
    assert (win["base"], win["tuned"], win["win"], win["items"]) == ("52.5", "52.5", "+0.0", "61 of 64")
    one, two = table(made, "By task")
    assert (one["base"], one["tuned"], one["difference"], one["scored"]) == ("55.2", "55.2", "+0.0", "29 of 32")
    assert (two["base"], two["scored"]) == ("50.0", "32")
    assert (base.score, tuned.score) == (0.5, 32 / 61)  # what each has by itself stays in its results


def test_partial_credit_stands_apart_from_the_strict_score(sides: Sides) -> None:
    verdict, base, tuned = sides

    def reading(result: SuiteResult, wrong: float) -> SuiteResult:
        """Wrong answers have some partial credit, item 0 has no reading; form follows the score; words are no share."""
        items = tuple(item._replace(metrics={} if n == 0 else {
            "partial": 1.0 if item.score == 1 else wrong, "form": item.score or 0.0, "acc,none": item.score or 0.0,
            "acc,loose": 1.0, "bleu,none": 31.0, "words": 0.5}) for n, item in enumerate(result.items))
        return replace(result, items=items)

    base["format"], tuned["format"] = reading(base["format"], 0.5), reading(tuned["format"], 0.5)
    rows = table(report(verdict, base, tuned), "Partial credit")
    assert [row["reading"] for row in rows] == ["partial credit", "acc,loose"]
    assert (rows[0]["items"], rows[0]["score"], rows[0]["this reading"]) == ("49", "20.4 → 100.0", "60.2 → 100.0")
    assert re.fullmatch(r"\+39\.8 \(\+3\d\.\d to \+4\d\.\d\)", rows[0]["difference"])
    assert rows[1]["difference"].startswith("+0.0 (")
    assert verdict == sides[0]  # it judges nothing
    unread = {"facts": base["facts"]}, {"facts": tuned["facts"]}
    assert not any(t.title.startswith("Partial") for t in report(compare(*unread, GateSection()), *unread).tables)


def test_refusal_rates_stand_as_scored_and_as_corrected(sides: Sides) -> None:
    verdict, base, tuned = sides

    def asked(result: SuiteResult) -> SuiteResult:
        return replace(result, items=tuple(item._replace(
            target='{"refuse": true}', metrics={"refused": item.score or 0.0}) for item in result.items))

    base["format"], tuned["format"] = asked(base["format"]), asked(tuned["format"])
    before, after, change = table(report(verdict, base, tuned), "Refusal rates")
    assert [row["refused, as scored"] for row in (before, after, change)] == ["20.0 %", "100.0 %", "+80.0"]
    assert [row["model"] for row in (before, after, change)] == ["base", "tuned", "tuned − base"]
    assert re.fullmatch(r"\d+\.\d to \d+\.\d %", before["95 % interval"])
    assert re.fullmatch(r"\+\d+\.\d to \+\d+\.\d %", change["95 % interval"])


def test_the_interval_of_one_text_is_unknown_in_words_and_in_the_plot(make_result: Make) -> None:
    base, tuned = ({"facts": replace(make_result(scores), scale="log")} for scores in ([-1.0], [-1.25]))
    verdict = compare(base, tuned, GateSection())
    made = report(verdict, base, tuned)
    tax, = table(made, "Tax")
    assert (tax["tax"], tax["95 % interval"], tax["detectable"]) == ("+25.0", "unknown", NONE)
    assert verdict.rows()[0]["95 % interval"] == "unknown"
    assert table(made, "Notes")[0]["note"] == "its items (1) make one cluster, which tells nothing about others"
    plot = forest_svg(verdict)
    assert "interval unknown" in plot
    assert "500" not in re.sub(r"<[^>]*>", "", plot)  # the axis does not reach where nothing is known


def test_stop_rate_backend_and_tasks(sides: Sides) -> None:
    verdict, base, tuned = sides

    def asked(result: SuiteResult, stopped: float) -> SuiteResult:
        items = tuple(item._replace(metrics={"stopped": stopped, "overrun": 1 - stopped}, task=f"kind{n % 2}")
                      for n, item in enumerate(result.items))
        return replace(result, items=items, backend=f"engine {stopped:g}", truncated=int(stopped))

    base["format"], tuned["format"] = asked(base["format"], 0.25), asked(tuned["format"], 1.0)
    made = report(verdict, base, tuned)
    row = next(r for r in table(made, "How") if r["suite"] == "format")
    assert (row["stop rate"], row["overrun"], row["cut to fit"]) == ("25 % → 100 %", "75 % → 0 %", "0 → 1")
    assert row["backend"] == "engine 0.25 → engine 1"
    assert next(r for r in table(made, "How") if r["suite"] == "facts")["stop rate"] == NONE
    tasks = table(made, "By task")
    assert [(r["suite"], r["task"], r["base"], r["tuned"], r["difference"]) for r in tasks] == [
        ("format", "kind0", "20.0", "100.0", "+80.0"), ("format", "kind1", "20.0", "100.0", "+80.0")]
    count = int(tasks[0]["scored"])
    some = tuple(item._replace(score=None) if n == 0 else item for n, item in enumerate(tuned["format"].items))
    partly = table(report(verdict, base, {**tuned, "format": replace(tuned["format"], items=some)}), "By task")
    assert (partly[0]["scored"], partly[1]["scored"]) == (f"{count - 1} of {count}", str(count))


def test_equal_names_are_told_apart(sides: Sides) -> None:
    verdict, base, tuned = sides
    row = table(report(replace(verdict, names=Names("tiny", "tiny").apart), base, tuned), "Tax")[0]
    assert (row["tiny (1)"], row["tiny (2)"]) == ("60.6", "1.0")


def test_a_suite_without_any_score_is_shown_and_drawn(make_result: Make) -> None:
    nothing = {"facts": make_result([None, None])}
    verdict = compare(nothing, nothing, GateSection())
    row = table(report(verdict, nothing, nothing), "Tax")[0]
    assert (row["base"], row["tax"], row["95 % interval"]) == (NONE, NONE, NONE)
    assert "not measured: 0 of 2 items" in forest_svg(verdict)


def test_the_plot_shows_every_suite_and_is_the_same_each_time(sides: Sides) -> None:
    verdict = with_suite(sides[0], "facts", suite="fa$ct$<s>")
    svg = forest_svg(verdict)
    assert svg == forest_svg(verdict)
    texts = {"".join(node.itertext()) for node in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
    assert {"fa$ct$<s>", "format", "worse", "improved", "margin"} <= texts
    assert forest_png(verdict).startswith(b"\x89PNG")


WORDS = st.lists(st.sampled_from(["a", "b", "cd", " ", ".", "\n", "é"]), max_size=30).map("".join)


@given(WORDS, WORDS)
def test_word_diff_loses_nothing_and_agrees_on_what_is_shared(one: str, two: str) -> None:
    left, right = word_diff(one, two)
    assert ("".join(p.text for p in left), "".join(p.text for p in right)) == (one, two)
    assert "".join(p.text for p in left if p.same) == "".join(p.text for p in right if p.same)


def test_word_diff_marks_the_words_that_differ() -> None:
    left, right = word_diff("The answer is 12 apples.", "The answer is 13 apples.")
    assert [p.text for p in left if not p.same] == ["12"]
    assert [p.text for p in right if not p.same] == ["13"]


def test_large_changes_come_first(make_result: Make) -> None:
    found = flips(make_result([1.0, 1.0, 0.0]), make_result([0.5, 0.0, 1.0]))
    assert [(f.item_id, f.lost) for f in found] == [("q/1", True), ("q/0", True), ("q/2", False)]
