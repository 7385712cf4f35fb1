"""The mixture: exact whole counts, stable under other rows, met to half an example or refused with what can be met."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sft_core.config.mixture import MixtureSection, SourceMixSection
from sft_core.conversation import Origin
from sft_core.data.examples import load_examples
from sft_core.data.mix.draw import line_up, parts_of, places, times
from sft_core.data.mix.labels import FILE, Labels, write_labels
from sft_core.data.mix.plan import Mixed, Mixing, Mixture, mix
from sft_core.data.mix.shares import Limit, within
from sft_core.errors import DataError, TrainingError
from sft_core.templates.render import IGNORE, Example
from sft_core.train.course import Packing, lay_out
from sft_core.train.finish import Until
from sft_core.train.inputs import TrainInputs, data_digest, read_data
from sft_core.train.trainer import train

ROWS = {"a": 600, "b": 150, "c": 50}


def _example(source: str, number: int) -> Example:
    rng = random.Random(f"{source}/{number}")
    ids = [rng.randrange(4, 60) for _ in range(rng.randint(4, 30))]
    return Example(ids, [IGNORE, *ids[2:], IGNORE], Origin(source, f"{source}.jsonl", number + 1))


EXAMPLES = [_example(source, number) for source, count in ROWS.items() for number in range(count)]
LANGUAGES = ["de" if at % 10 == 0 else "fr" if at % 25 == 1 else "en" for at in range(len(EXAMPLES))]
LABELS = Labels(LANGUAGES, ["t"] * len(EXAMPLES), ["human"] * len(EXAMPLES))


def _mix(sources: Mapping[str, Mapping[str, float]] | None = None, **section: Any) -> Mixture:
    sources = {name: SourceMixSection.model_validate((sources or {}).get(name, {})) for name in ROWS}
    return mix(EXAMPLES, LABELS, Mixing(MixtureSection.model_validate(section), sources), 0)


def _of(rows: Mapping[str, int], by_kind: Mapping[str, str] | None = None, **section: Any) -> Mixture:
    """The mixture of so many rows of each source."""
    examples = [_example(source, number) for source, count in rows.items() for number in range(count)]
    labels = Labels(*([value(one.origin.source) for one in examples] for value in (
        lambda _: "en", lambda _: "t", lambda name: (by_kind or {}).get(name, "human"))))
    sources = dict.fromkeys(rows, SourceMixSection())
    return mix(examples, labels, Mixing(MixtureSection.model_validate(section), sources), 0)


def _rows(mixture: Mixture, epochs: float = 1) -> dict[str, Mixed]:
    return {row.name: row for row in mixture.table(epochs)}


def test_nothing_asked_is_every_example_once() -> None:
    for by in ("rows", "tokens"):
        mixture = _mix(by=by)
        assert set(mixture.times(0)) == {1}
        assert mixture.drawn(3) == list(range(len(EXAMPLES)))


def test_rows_are_exact_and_tokens_to_half_an_example_of_each_end() -> None:
    shares = {"a": {"share": 2}, "b": {"share": 1}, "c": {"share": 1}}
    found = _rows(_mix(shares, by="rows", size=100))
    assert [found[name].rows for name in ROWS] == [50, 25, 25]
    mixture = _mix(shares, size=1000)
    longest = max(mixture.sizes)
    for epochs in (1, 7):
        for name, wanted in zip(ROWS, (500, 250, 250), strict=True):
            assert abs(_rows(mixture, epochs)[name].trained_tokens - wanted * epochs) <= longest
    assert sum(row.trained_tokens for row in mixture.table(7) if row.what == "source") == sum(
        mixture.trained[i] for epoch in range(7) for i in mixture.drawn(epoch))


def test_the_largest_epoch_repeats_nothing() -> None:
    mixture = _mix({"a": {"share": 0.5}}, by="rows")
    assert _rows(mixture)["a"].rows == _rows(mixture)["b"].rows + _rows(mixture)["c"].rows == 200
    assert max(mixture.times(0)) == 1
    twice = _mix({"c": {"epochs": 2}, "b": {"epochs": 0.5}}, by="rows")
    assert [_rows(twice)[name].rows for name in ROWS] == [600, 75, 100]
    assert set(twice.times(0)[750:]) == {2}


def test_temperature_and_cap() -> None:
    equal = _rows(_mix(by="rows", temperature=1e6, size=90))
    assert [equal[name].rows for name in ROWS] == [30, 30, 30]
    root = _rows(_mix(by="rows", temperature=2, size=1000))
    assert root["a"].rows / root["b"].rows == pytest.approx(2, abs=0.02)
    capped = _rows(_mix(by="rows", cap=100))
    assert [capped[name].rows for name in ROWS] == [100, 100, 50]


def test_resampled_uses_all_before_one_twice_and_fixed_the_same() -> None:
    shares = {"a": {"share": 0.25}, "b": {"share": 0.5}, "c": {"share": 0.25}}
    mixture = _mix(shares, by="rows", size=300)
    first, second = (Counter(mixture.drawn(epoch)) for epoch in (0, 1))
    of_a = range(ROWS["a"])
    assert not {i for i in first if i in of_a} & {i for i in second if i in of_a}
    eight = sum((Counter(mixture.drawn(epoch)) for epoch in range(8)), Counter())
    assert {eight[i] for i in of_a} == {1}
    assert sum(eight.values()) == 8 * 300
    fixed = _mix(shares, by="rows", size=300, draw="fixed")
    assert fixed.drawn(0) == mixture.drawn(0) == fixed.drawn(5)


def test_other_rows_move_only_what_lies_at_the_edge() -> None:
    sources = {name: SourceMixSection(share=1 / 3) for name in ROWS}
    mixing = Mixing(MixtureSection(by="rows", size=120), sources)
    more = [*EXAMPLES, *(_example("b", number) for number in range(1000, 1010))]
    before, after = (mix(one, None, mixing, 0).drawn(0) for one in (EXAMPLES, more))
    gone = {i for i in before if i not in after}
    assert len(gone) <= 4  # of the 40 of b: some of the ten new ones came before the last
    assert {i for i in before if i < 600} == {i for i in after if i < 600}
    assert before != mix(EXAMPLES, None, mixing, 1).drawn(0)
    backwards = mix(EXAMPLES[::-1], None, mixing, 0).drawn(0)
    assert sorted(len(EXAMPLES) - 1 - i for i in backwards) == before


def test_limits_on_labels() -> None:
    mixture = _mix(by="rows", languages={"en": {"most": 0.6}, "fr": {"least": 0.3}}, size=200)
    found = _rows(mixture)
    assert (found["en"].share, found["fr"].share) == (0.6, 0.3)
    assert found["de"].share == pytest.approx(0.1)
    assert found["en"].wanted == (0.0, 0.6)
    assert found["en"].before > 0.8
    assert found["de"].wanted is None
    both = _rows(_mix({name: {"share": 1} for name in ROWS}, by="rows", size=300, most_repeats=9,
                      languages={"de": {"share": 0.25}}))
    assert [both[name].rows for name in (*ROWS, "de")] == [100, 100, 100, 75]


def test_a_limit_that_is_kept_moves_nothing() -> None:
    assert _mix(languages={"en": {"most": 0.99}}).drawn(0) == _mix().drawn(0)
    assert _mix(kinds={"human": {"share": 1.0}}).drawn(0) == _mix().drawn(0)


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=6), st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_within_is_the_nearest_that_keeps_the_limits(weights: list[int], most: float, share: float) -> None:
    shares = np.array(weights * 2) / (2 * sum(weights))
    half = np.arange(len(shares)) < len(weights)
    even = np.arange(len(shares)) % len(weights) == 0
    found = within(shares, [Limit("half", half, 0.0, most), Limit("even", even, share, share)])
    assert found.sum() == pytest.approx(1)
    assert found[half].sum() <= most + 1e-6
    assert found[even].sum() == pytest.approx(share, abs=1e-6)
    # Both are products of what each asks for, and independent of each other here.
    wanted = np.where(half, min(most, 0.5), 1 - min(most, 0.5)) * np.where(even, share, 1 - share)
    there = shares * 2 / np.where(even, shares[even].sum(), shares[~even].sum())
    assert found == pytest.approx(wanted * there, abs=1e-6)


@pytest.mark.parametrize(("sources", "section", "said"), [
    ({}, {"size": 10**7}, r"needs .* of a, which has .* most_repeats allows 4; set size to at most"),
    ({"a": {"share": 0.7}, "b": {"share": 0.7}}, {}, r"shares of a, b are 1\.4 together, and c without one"),
    ({name: {"share": 0} for name in ROWS}, {}, "every source has data.sources.share 0"),
    ({}, {"languages": {"it": {"most": 0.1}}}, "the language it, which no training example has; there are de, en, fr"),
    ({}, {"languages": {"en": {"most": 0.6}, "de": {"most": 0.2}, "fr": {"most": 0.1}}},
     r"en is to have at most 60\.0%, and beside the others it can have 70\.0% to 100\.0%"),
    ({}, {"kinds": {"human": {"most": 0.5}}}, r"human is to have at most 50\.0%, and .* can have 100\.0% to 100\.0%"),
])
def test_what_cannot_be_met_is_said_with_what_can(sources: Any, section: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        _mix(sources, **section)


def test_the_size_that_the_error_names_is_reachable() -> None:
    with pytest.raises(DataError) as raised:
        _mix({"c": {"share": 0.5}}, by="rows", size=10**6)
    largest = int(re.findall("at most ([0-9]+)", str(raised.value).replace(",", ""))[0])
    assert max(_mix({"c": {"share": 0.5}}, by="rows", size=largest).times(0)) == 4
    with pytest.raises(DataError):
        _mix({"c": {"share": 0.5}}, by="rows", size=largest + 10)


def test_a_share_without_examples_is_refused() -> None:
    sources = {name: SourceMixSection(share=0.1) for name in (*ROWS, "gone")}
    with pytest.raises(DataError, match=r"the source gone has .*share 0\.1 and no training example"):
        mix(EXAMPLES, None, Mixing(MixtureSection(), sources), 0)
    sources["gone"] = SourceMixSection(share=0.0)
    table = mix(EXAMPLES, None, Mixing(MixtureSection(), sources), 0).table(1)
    assert [(row.name, row.rows) for row in table if not row.rows] == [("gone", 0)]


def test_sections() -> None:
    with pytest.raises(ValidationError, match="give share, or least, most or both"):
        MixtureSection.model_validate({"languages": {"en": {}}})
    with pytest.raises(ValidationError, match="is above most"):
        MixtureSection.model_validate({"languages": {"en": {"least": 0.5, "most": 0.4}}})
    with pytest.raises(ValidationError, match="kinds"):
        MixtureSection.model_validate({"kinds": {"robot": {"most": 0.4}}})


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 300), st.integers(0, 300))
def test_epochs_along_the_line_add_up(sizes: list[int], first: int, second: int) -> None:
    """Symmetry: two epochs one behind the other are one of their length, within half an example of what was asked."""
    lengths = np.array(sizes)
    middles = line_up(places([[n] for n in range(len(sizes))], 0), lengths)
    whole = int(lengths.sum())
    a, b = times(middles, whole, 0, first), times(middles, whole, first, first + second)
    assert (a + b == times(middles, whole, 0, first + second)).all()
    assert (b >= 0).all()
    assert abs(int((a * lengths).sum()) - first) <= max(sizes) / 2
    assert a.max() - a.min() <= 1


@given(st.lists(st.integers(1, 100), min_size=1, max_size=20), st.integers(0, 10**6))
def test_parts_lose_nothing(weights: list[int], size: int) -> None:
    shares = np.array(weights) / sum(weights)
    parts = parts_of(size, shares)
    assert parts.sum() == size
    assert (abs(parts - size * shares) < 1).all()


# In training


@pytest.fixture
def mixed(prepared: Path, train_inputs: TrainInputs, tmp_path: Path) -> TrainInputs:
    """Inputs whose examples are of two sources, every fourth of `few`, which is to have half of an epoch."""
    import pyarrow.parquet as pq

    folder = tmp_path / "mixed"
    folder.mkdir()
    for file in prepared.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    table = pq.read_table(prepared / "train.parquet")
    names = ["many" if at % 4 else "few" for at in range(len(table))]
    pq.write_table(table.set_column(table.column_names.index("source"), "source", [names]), folder / "train.parquet")
    write_labels(folder, Labels(["en"] * len(table), names, ["human"] * len(table)))
    sources = {"many": SourceMixSection(share=0.5), "few": SourceMixSection(share=0.5)}
    return replace(train_inputs, prepared=folder, mixing=Mixing(MixtureSection(by="rows", size=12), sources))


def test_what_makes_an_epoch_small_is_named_with_what_would_make_it_larger() -> None:
    rows, kinds = {"a": 500, "b": 321, "one": 1}, {"a": "synthetic", "one": "synthetic"}
    small = _of(rows, kinds, by="rows", temperature=2, kinds={"synthetic": {"most": 0.5}})
    size = len(small.drawn(0))
    assert size < 100
    given = {"by": "rows", "temperature": 2, "kinds": {"synthetic": {"most": 0.5}}}
    cooler = len(_of(rows, kinds, **{**given, "temperature": 1}).drawn(0))
    assert small.narrow.startswith(
        f"the source one with 1 example limits an epoch to {size} of 822 examples: give it less (data.sources.share), "
        f"set data.mixture.temperature lower (1 gives {cooler}), set data.mixture.size ("), small.narrow
    most = int(re.search(r"\(most_repeats 4 allows (\d+)\), or take it out$", small.narrow)[1])  # type: ignore[index]
    assert len(_of(rows, kinds, **given, size=most).drawn(0)) == most
    with pytest.raises(DataError, match=f"set size to at most {most}"):
        _of(rows, kinds, **given, size=most + 1)
    assert len(_of({"a": 500, "b": 321}, kinds, **given).drawn(0)) > 5 * size, "taken out"


def test_a_label_or_tokens_that_make_it_small_are_named_too() -> None:
    few = _of({"a": 300, "b": 5, "c": 4}, {"a": "synthetic"}, by="rows", kinds={"synthetic": {"most": 0.5}}).narrow
    assert few.startswith("the kind human with 9 examples limits an epoch to 18 of 309 examples: give ")
    assert ", loosen the limits on labels (none give 309), " in few
    assert re.match(r"the source b with 1?\d trained tokens limits an epoch to \d+ of [\d,]+ trained tokens: ",
                    _of({"a": 300, "b": 1}, temperature=9).narrow)


@pytest.mark.parametrize("section", [{}, {"temperature": 1.1}, {"by": "rows", "cap": 10}, {"by": "rows", "size": 20}])
def test_nothing_is_said_of_an_epoch_that_is_whole_or_small_as_asked(section: dict[str, Any]) -> None:
    assert _of({"a": 300, "b": 150}, **section).narrow == ""


def test_a_course_brings_what_the_mixture_draws(mixed: TrainInputs, train_section: Callable[..., Any]) -> None:
    section = train_section(epochs=3, rows_per_step=2)
    data = read_data(mixed, section)
    assert data.mixture is not None
    used = [i for row in data.course.sft.rows for i in row]
    assert Counter(used) == Counter(i for epoch in range(3) for i in data.mixture.drawn(epoch))
    assert len(used) == 36
    assert Counter(data.course.sft.examples[i].origin.source for i in used) == {"many": 18, "few": 18}
    assert data.course.digest() == read_data(mixed, section).course.digest()
    plain = replace(mixed, mixing=None)
    packing = Packing(mixed.max_tokens, True, mixed.seed)
    assert read_data(plain, section).course == lay_out(load_examples(mixed.prepared / "train.parquet"), [], section,
                                                       packing)


def test_labels_matter_where_they_are_limited(mixed: TrainInputs, train_section: Callable[..., Any]) -> None:
    assert mixed.mixing is not None
    limited = mixed.mixing._replace(section=MixtureSection.model_validate({"tasks": {"few": {"share": 0.5}}}))
    before = data_digest(mixed.prepared, mixed.mixing), data_digest(mixed.prepared, limited)
    assert before[0] == data_digest(mixed.prepared) != before[1]
    write_labels(mixed.prepared, Labels(["en"] * 3, ["few"] * 3, ["human"] * 3))
    assert data_digest(mixed.prepared, limited) not in before
    with pytest.raises(DataError, match="labels 3 examples, and train.parquet has 24; prepare"):
        read_data(mixed, train_section())
    (mixed.prepared / FILE).unlink()
    with pytest.raises(DataError, match="which the limits of data.mixture need"):
        read_data(replace(mixed, mixing=limited), train_section())
    assert read_data(mixed, train_section()).course.steps


def test_a_stopped_run_continues_bit_identical(mixed: TrainInputs, train_section: Callable[..., Any],
                                               tmp_path: Path) -> None:
    section = train_section(epochs=3, rows_per_step=2, checkpoint_every_s=1e-6)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    report = train(mixed, section, whole)
    train(mixed, section, parts, until=Until(0.5, parts / "half"))
    train(mixed, section, parts)
    assert (whole / "model/model.safetensors").read_bytes() == (parts / "model/model.safetensors").read_bytes()
    start = json.loads((whole / "events.jsonl").read_text().splitlines()[0])
    assert [(row["name"], row["rows"]) for row in start["mixture"] if row["what"] == "source"] == [
        ("few", 18), ("many", 18)]
    assert report.used == {row["name"]: row["used"] for row in start["mixture"] if row["what"] == "source"}
    assert start["narrow"] == ""
    assert report.trained_tokens == start["plan"]["trained_tokens"] == sum(
        row["trained_tokens"] for row in start["mixture"] if row["what"] == "source")


def test_a_checkpoint_of_another_mixture_is_refused(mixed: TrainInputs, train_section: Callable[..., Any],
                                                    tmp_path: Path) -> None:
    section = train_section(epochs=3, rows_per_step=2, checkpoint_every_s=1e-6)
    train(mixed, section, tmp_path, until=Until(0.5, tmp_path / "half"))
    assert mixed.mixing is not None
    other = replace(mixed, mixing=mixed.mixing._replace(section=MixtureSection(by="rows", size=14)))
    with pytest.raises(TrainingError, match=r"data\.mixture"):
        train(other, section, tmp_path)
