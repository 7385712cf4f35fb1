"""Configuration files: all problems at once, with lines and nearest names; typed overrides; frozen sections."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sft_core.config.experiment import ExperimentConfig, Range
from sft_core.config.file import examine, flatten, load, override
from sft_core.config.located import replaced
from sft_core.config.search import is_whole, tried
from sft_core.config.telling import Lack
from sft_core.config.train import LoraSection
from sft_core.errors import ConfigError

MINIMAL = """\
name: demo
model: {path: tiny}
data:
  sources:
    - path: tiny:sft
  max_tokens: 128
train:
  optim: {lr: 0.001}
eval:
  suites: [tiny_mmlu]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(MINIMAL)
    return path


def message(path: Path, text: str, *overrides: str) -> str:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    return str(caught.value)


def test_minimal_file_loads_and_keeps_its_text(file: Path) -> None:
    loaded = load(file)
    assert loaded.config.train.optim.lr == 0.001
    assert loaded.text == MINIMAL


@pytest.mark.parametrize(("override", "value"), [
    ("name=007", "007"), ('name="007"', "007"), ("name=1e3", "1e3"), ("name=on", "on"),
    ("name=2026-11-29", "2026-11-29"),
    ("model.revision=1234567", "1234567"), ("model.revision=12e5", "12e5"), ("model.revision=null", None),
    ("data.sources.0.subset=007", "007"), ("data.decontaminate.verbatim=off", "off"),
    ("data.sources.0.name=0x10", "0x10"),
    ('template.kwargs.level="007"', "007"), ("template.kwargs.level=007", 7), ("template.kwargs.level=1e-3", 0.001),
    ("train.optim.lr=1e-3", 0.001), ("seed=007", 7)])
def test_a_text_stays_the_text_that_was_typed(file: Path, override: str, value: object) -> None:
    """Commits, dates and numbers with zeros in front are names like others; `on` and `off` are words."""
    found: Any = load(file, [override]).config
    for part in override.partition("=")[0].split("."):
        found = found[int(part)] if part.isdigit() else found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_all_problems_are_told_at_once_with_their_lines(file: Path) -> None:
    text = MINIMAL.replace("model: {path: tiny}", "model: {path: tiny, devise: cpu}").replace("max_tokens: 128", "x: 1")
    said = message(file, text, "train.optim.lr=fast")
    assert "has 4 problems" in said
    assert "config.yaml:2: model.devise: unknown key; did you mean device?" in said
    assert "config.yaml:3: data.max_tokens: missing, and has no default" in said
    assert "config.yaml:6: data.x: unknown key; known here: sources, max_tokens" in said
    assert "--set train.optim.lr=fast: train.optim.lr: Input should be a valid number" in said


def test_a_bad_entry_does_not_also_make_its_list_too_short(file: Path) -> None:
    said = message(file, MINIMAL.replace("- path: tiny:sft", "- paht: tiny:sft"))
    assert "did you mean path?" in said
    assert "at least one" not in said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "it holds nothing"),
        ("- a\n- b\n", "it holds list"),
        ("name: [unclosed\n", "config.yaml:2: no valid YAML: while parsing a flow sequence"),
        (MINIMAL + "name: again\n", "config.yaml:11: name is given twice"),
        (MINIMAL + "gate: {must_improve: [nosuch]}\n", "gate.must_improve names ['nosuch']"),
        (MINIMAL + "gate: {margins: {tiny_mmul: 2.0}}\n", "gate.margins names ['tiny_mmul'] (did you mean"),
        (MINIMAL + "gate: {at_least: {'tiny_mmlu:pairwise': 0.5}}\n", "judged suites (NAME:pairwise, NAME:graded)"),
        (MINIMAL.replace("{lr: 0.001}", "{lr: 0.001}\n  replay: {lambda: 1}"), "needs replay.sources"),
    ],
)
def test_malformed_files(file: Path, text: str, expected: str) -> None:
    assert expected in message(file, text)


@pytest.mark.parametrize(("mode", "name"), [("pairwise", "tiny_mmlu:pairwise"), ("single", "tiny_mmlu:graded")])
def test_a_gate_may_name_judged_suites_where_there_is_a_judge(file: Path, mode: str, name: str) -> None:
    judge = f"  judge: {{endpoint: {{url: 'http://127.0.0.1:1/v1', model: m}}, mode: {mode}}}\n"
    gate = f"gate: {{must_improve: ['{name}'], margins: {{'{name}': 2.0}}}}\n"
    file.write_text(MINIMAL + judge + gate)
    assert load(file).config.gate.must_improve == (name,)
    other = {"pairwise": "single", "single": "pairwise"}[mode]
    assert f"gate.must_improve names ['{name}'] (did you mean" in message(
        file, MINIMAL + judge.replace(f"mode: {mode}", f"mode: {other}") + gate)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no configuration file"):
        load(tmp_path / "nosuch.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(tmp_path / "binary.yaml")


def test_overrides_are_typed_by_the_model(file: Path) -> None:
    changed = load(file, ["train.optim.lr=2e-3", "train.epochs=3", "eval.suites=[a, b]", "data.sources.0.limit=7",
                          "train.kl.beta=0.5", "train.kl.on=assistant"]).config
    assert changed.train.optim.lr == 0.002
    assert changed.train.epochs == 3
    assert changed.eval.suites == ("a", "b")
    assert changed.data.sources[0].limit == 7
    assert changed.train.kl.beta == 0.5


def test_an_unquoted_off_is_the_word(file: Path) -> None:
    config = load(file, ["data.decontaminate=off", "eval.parity=off"]).config
    assert (config.data.decontaminate.verbatim, config.data.decontaminate.reworded, config.eval.parity) == ("off",) * 3
    with pytest.raises(ConfigError, match=r"drop.*report.*off"):
        load(file, ["data.decontaminate=true"])


def test_text_of_an_overridden_file_holds_the_override(file: Path) -> None:
    assert yaml.safe_load(load(file, ["train.optim.lr=2e-3"]).text)["train"]["optim"]["lr"] == 0.002


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr", "is not of the form"),
        ("name.x=1", "name is a value, not a section"),
        ("data.sources.5.limit=1", "there is no data.sources.5"),
        ("data.sources.9=1", "index 9 does not exist"),
        ("train.optim.lr=[", "no valid YAML"),
    ],
)
def test_malformed_overrides(file: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match="(?s).*") as caught:
        load(file, [text])
    assert expected in str(caught.value)


def test_override_of_a_loaded_config_is_checked(file: Path) -> None:
    config = load(file).config
    assert override(config, {"train.optim.lr": 0.5}).train.optim.lr == 0.5
    assert config.train.optim.lr == 0.001
    with pytest.raises(ConfigError, match="did you mean lr"):
        override(config, {"train.optim.lrr": 0.5})


SEARCH = """
search: {alignment: [tiny_mmlu], capability: [tiny_mmlu], space: {FIELD: RANGE}}
"""


@pytest.mark.parametrize(
    ("field", "span", "said"),
    [
        ("train.lora.rank", "{low: 0, high: 8}", "train.lora.rank.low = 0: train.lora.rank: Input should be greater"),
        ("train.lora.rank", "{low: 1.5, high: 8}", "rank.low = 1.5: train.lora.rank: Input should be a valid integer"),
        ("train.lora.dropout", "{low: 0, high: 1}", "dropout.high = 1.0: train.lora.dropout: Input should be less"),
        ("train.method", "{choices: [full, none]}", "method.choices.1 = 'none': train.method: Input should be 'full'"),
        ("train.kl.beta", "{low: 0, high: 1}", "train.kl.beta.high = 1.0: train: replay.lambda > 0"),
        ("train.optim.lrr", "{low: 1, high: 2}", "unknown key; did you mean lr?"),
        ("name.x", "{low: 1, high: 2}", "name is a value, not a section"),
        ("train.optim.lr", "{low: 1, high: .inf}", "search.space.train.optim.lr.high: Input should be a finite number"),
        ("train.optim.lr", "{choices: []}", "should have at least one entry"),
    ],
)
def test_every_end_and_every_choice_of_a_search_is_tried(file: Path, field: str, span: str, said: str) -> None:
    found = message(file, MINIMAL + SEARCH.replace("FIELD", field).replace("RANGE", span))
    assert said in found
    assert f"config.yaml:{MINIMAL.count(chr(10)) + 2}: " in found


def test_searched_values_have_the_type_of_their_field(file: Path) -> None:
    """Ranks were drawn as 5.37; `true` was read as 1.0."""
    spaces = {"train.lora.rank": Range(low=4, high=8), "train.optim.lr": Range(low=1e-4, high=1e-3),
              "data.sources.0.limit": Range(low=10, high=20), "data.pack": Range(choices=(True, False)),
              "train.tokens_per_step": Range(choices=(None, 64)), "gate.margins.x": Range(low=1, high=2)}
    assert {field: is_whole(field) for field in spaces} == {
        "train.lora.rank": True, "train.optim.lr": False, "data.sources.0.limit": True, "data.pack": False,
        "train.tokens_per_step": True, "gate.margins.x": False}
    assert [repr(one.value) for field, span in spaces.items() for one in tried(field, span)] == [
        "4", "8", "0.0001", "0.001", "10", "20", "True", "False", "None", "64", "1.0", "2.0"]
    file.write_text(MINIMAL + SEARCH.replace("FIELD: RANGE", "train.lora.rank: {low: 4, high: 8}, "
                                             "data.pack: {choices: [true, false]}"))
    load(file, ["train.method=lora"])


@pytest.mark.parametrize(("field", "settings", "why"), [
    ("train.lora.rank", (), "train.method is full"), ("train.micro_rows", (), "it changes nothing that a trial learns"),
    ("eval.batch_tokens", (), "it changes nothing"), ("gate.max_tax", (), "it changes nothing"),
    ("train.replay.tokens_per_step", (), "train.replay.lambda is 0"), ("train.optim.decay_share", (), "is not wsd"),
    ("train.rows_per_step", ("train.tokens_per_step=64",), "train.tokens_per_step is set"),
    ("train.stopping.min_delta", (), "patience is 0"), ("train.probe.items", (), "probes only tell"),
    ("data.sources.0.share", (), "there is no other source"), ("data.processes", (), "it changes nothing"),
    ("data.mixture.temperature", (), "no two sources are without a share"),
    ("data.mixture.cap", ("data.sources=[{path: x, share: 2}, {path: y, share: 1}]",), "every source has a share"),
    ("data.mixture.most_repeats", (), "data.mixture.size is not set")])
def test_a_searched_field_that_changes_nothing_is_refused(file: Path, field: str, settings: tuple[str, ...], why: str
                                                          ) -> None:
    """All trials were trained and came out the same."""
    span = "{low: 0.2, high: 0.4}" if field.endswith(("share", "delta", "tax")) else "{low: 4, high: 8}"
    text = MINIMAL + SEARCH.replace("FIELD", field).replace("RANGE", span)
    said = message(file, text, *settings)
    assert f"search.space.{field}: all trials would be the same, because " in said
    assert why in said


def test_a_field_counts_where_what_switches_it_off_is_searched_too(file: Path) -> None:
    file.write_text(MINIMAL + SEARCH.replace("FIELD: RANGE", "train.lora.rank: {low: 4, high: 8}, train.method: "
                                             "{choices: [full, lora]}, train.kl.beta: {low: 0, high: 1}, "
                                             "train.kl.direction: {choices: [reverse, forward]}"))
    load(file, ["train.kl.on=assistant"])


@pytest.mark.parametrize(
    ("place", "name"),
    [("name", "a/b"), ("search.study", "../../../evil"), ("tracking.experiment", "../.."), ("tracking.experiment", ""),
     ("tracking.registered_model", "team:model")],
)
def test_names_are_names(file: Path, place: str, name: str) -> None:
    """They become folders and files of the workspace: `search.study: ../../../evil` was written outside of it."""
    text = MINIMAL + SEARCH.replace("FIELD: RANGE", "train.epochs: {low: 1, high: 2}")
    assert f"{place}: this is no name; a name starts with a letter or digit" in message(file, text, f"{place}='{name}'")
    load(file, ["tracking.experiment=Größe und Güte", "search.study=lr 2024.v1"])


def test_sections_are_frozen(file: Path) -> None:
    config = load(file).config
    with pytest.raises(ValidationError, match="frozen"):
        config.train.optim.lr = 1.0  # type: ignore[misc]


def test_flatten_names_every_set_field(file: Path) -> None:
    flat = flatten(load(file).config)
    assert flat["train.optim.lr"] == 0.001
    assert flat["train.replay.lambda"] == 0.0
    assert flat["data.sources.0.path"] == "tiny:sft"
    assert flat["eval.suites"] == ["tiny_mmlu"]
    assert "search" not in flat


@pytest.mark.parametrize(("given", "read"), [("1e-3", 0.001), (".5E+2", 50.0), ("007", "007"), ("inf", "inf"),
                                             ("1_000", "1_000"), (0.5, 0.5)])
def test_choices_are_what_was_written(given: object, read: object) -> None:
    assert Range(choices=(given, "x")).choices == (read, "x")


@pytest.mark.parametrize("bad", [{}, {"low": 1}, {"low": 1, "high": 2, "choices": (1,)}, {"low": 2, "high": 1},
                                 {"low": 0, "high": 1, "log": True}])
def test_range_refuses_what_is_no_range(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Range.model_validate(bad)


@given(rank=st.integers(1, 512), alpha=st.floats(0.1, 100), dropout=st.floats(0, 0.99))
def test_sections_round_trip_through_their_json(rank: int, alpha: float, dropout: float) -> None:
    section = LoraSection(rank=rank, alpha=alpha, dropout=dropout)
    assert LoraSection.model_validate_json(section.model_dump_json(by_alias=True)) == section


def test_every_field_has_a_description() -> None:
    def walk(schema: dict[str, object]) -> list[str]:
        bare = []
        for name, definition in {"ExperimentConfig": schema, **schema["$defs"]}.items():  # type: ignore[dict-item]
            bare += [f"{name}.{field}" for field, value in definition.get("properties", {}).items()
                     if "description" not in value]
        return bare

    assert walk(ExperimentConfig.model_json_schema()) == []


def test_fields_sections_and_search_are_told_in_one_pass(file: Path) -> None:
    """Three passes: unknown fields hid what sections say of each other, and both hid the search."""
    text = MINIMAL + SEARCH.replace("FIELD: RANGE", "train.optim.lrr: {low: 1, high: 2}, "
                                               "train.micro_rows: {low: 1, high: 2}")
    text = text.replace("max_tokens: 128", "max_tokens: many\n  pakc: true").replace("{lr: 0.001}", "{schedule: slow}")
    said = message(file, text)
    assert "has 7 problems" in said  # both ends of lrr
    for one in ("data.max_tokens: Input should be a valid integer", "data.pakc: unknown key; did you mean pack?",
                "train.optim.lr: missing", "train.optim.schedule: Input should be", "did you mean lr?",
                "search.space.train.micro_rows: all trials would be the same"):
        assert one in said
    gate = message(file, MINIMAL + "gate: {margins: {nosuch: 1.0}, alhpa: 0.1}\n")
    assert "has 2 problems" in gate
    assert "gate.margins names ['nosuch']" in gate
    found = examine(file)
    assert found.config is not None, "so that what it needs can be looked at all the same"
    assert message(file, MINIMAL.replace("[tiny_mmlu]", "[]")).count("problem") == 1


@pytest.mark.parametrize(("old", "new", "line", "said"), [
    ("{path: tiny}", "5", 2, "model: Input should be a section: keys with values (given: 5)"),
    ("{path: tiny}", "", 2, "model: Input should be a section: keys with values (given: nothing)"),
    ("- path: tiny:sft", "- tiny:sft", 5, "data.sources.0: Input should be a section: keys with values"),
    ("- path: tiny:sft", "- {path: 5}", 5, "data.sources.0.path: Input should be a valid string (given: 5)"),
    ("max_tokens: 128", "max_tokens: 128\n  mirror: [a]", 7, "data.mirror: Input should be a valid string or keys"),
    ("max_tokens: 128", "max_tokens: 128\n  mirror: {a: 5}", 7, "data.mirror.a: Input should be a valid string"),
    ("max_tokens: 128", f"max_tokens: {10**30}", 6, "data.max_tokens: Input should be less than 9223372036854775808"),
    ("{lr: 0.001}", "{lr: 0.001}\n  epochs: .inf", 9, "train.epochs: Input should be a finite number (given: inf)"),
    ("{lr: 0.001}", "{lr: 0.001}\n  kl:\n    beta: 1", 10, "train: replay.lambda > 0, or kl.beta > 0"),
    ("{lr: 0.001}", "{lr: 0.001, betas: [1]}", 8, "train.optim.betas.1: missing, and has no default"),
    ("[tiny_mmlu]", "tiny_mmlu", 10, "eval.suites: Input should be a list, e.g. [a, b] (given: 'tiny_mmlu')"),
    ("[tiny_mmlu]", "\n  - [a]", 11, "eval.suites.0: Input should be a valid string"),
    ("[tiny_mmlu]", "[tiny_mmlu]\n  limits: {x: 3}", 11, "eval: eval.limits names ['x']"),
    ("[tiny_mmlu]", "[tiny_mmlu]\ngate:\n  margins: {x: 3}", 12, "gate.margins names ['x']"),
    ("[tiny_mmlu]", "[tiny_mmlu]\n7: x", 11, "7: unknown key; known here: name, seed"),
])
def test_whatever_is_wrong_its_line_is_told_once_beside_what_else_is(
        file: Path, old: str, new: str, line: int, said: str) -> None:
    """Python's own words (tuple, dictionary), a line for every branch of a union, none for whole sections."""
    told = message(file, MINIMAL.replace(old, new), "seed=-1", "gate.alhpa=1", "nosuch").splitlines()
    assert len(told) == 5, told
    assert [one for one in told if f"config.yaml:{line}: {said}" in one], told
    assert "--set seed=-1: seed: Input should be greater than or equal to 0" in "".join(told)
    assert "--set gate.alhpa=1: gate.alhpa: unknown key; did you mean alpha?" in "".join(told)


def test_what_an_override_puts_there_is_told_as_its(file: Path) -> None:
    """The words of a message were taken for fields, and lines of what was replaced stood there still."""
    found = examine(file, ["data.sources=[{path: x}]"])
    lack = Lack(("data", "sources", 0, "path"), "data.sources.0.path: the folder x holds no data or train file")
    assert found.where([lack])[0].startswith("--set data.sources=[{path: x}]: data.sources.0.path")


@pytest.mark.parametrize(("text", "said"), [
    ("name: x\n\tdata: 1", "config.yaml:2: no valid YAML: while scanning for the next token, found character '\\t' "
                           "that cannot start any token; indent with spaces"),
    ("a: &a [*a]", "nested too deeply, or an alias in it holds itself"), ("[" * 5000, "nested too deeply"),
    ("name: 2024-13-45", "month must be in 1..12; quote what is meant as text"), ("a: *b", "found undefined alias"),
    ("\n".join(["a0: &a0 x", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 7))]),
     "comes to more than 100,000 values with its aliases (*name) written out; use fewer"),
    ("\0", "unacceptable character"), ("\ufeffname: x\r\ndata: 3\r\n", "config.yaml:2: data: Input should be a sect"),
], ids=range(8))
def test_what_is_no_yaml(file: Path, text: str, said: str) -> None:
    assert said in message(file, text)


def test_relative_paths_are_of_the_current_directory_and_whole_in_what_a_run_keeps(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("base", "rows", "below", "org"):
        (tmp_path / name).mkdir()
    for name in ("rows/own.jsonl", "own.jinja", "mine.yaml"):
        (tmp_path / name).write_text("")
    text = """\
name: demo # a remark
model: {path: ../base} # of the model
data:
  mirror: {org/set: ../org, org/gone: ../gone}
  sources: [{path: "../rows/own.jsonl"}, {path: tiny:sft}, {path: org/rows}]
  max_tokens: 128
template: {name: auto, path: ../own.jinja}
train:
  optim: {lr: 0.001}
eval: {suites: [tiny_mmlu, ../mine.yaml]}
"""
    file.write_text(text)
    (tmp_path / "below" / "tiny_mmlu").mkdir()  # called as a suite, by chance
    monkeypatch.chdir(tmp_path / "below")
    made = load(file).here()
    whole = text.replace("../gone", "kept")
    for name in ("base", "org", "rows/own.jsonl", "own.jinja", "mine.yaml"):
        whole = whole.replace(f'"../{name}"', f"../{name}").replace(f"../{name}", f'"{tmp_path}/{name}"')
    assert made.text == whole.replace("kept", "../gone")
    assert made.config.model.path == str(tmp_path / "base")
    assert [source.path for source in made.config.data.sources] == [
        str(tmp_path / "rows" / "own.jsonl"), "tiny:sft", "org/rows"]
    monkeypatch.chdir(tmp_path / "org")
    file.write_text(made.text)
    assert load(file).here() == made


@pytest.mark.parametrize("text", ["a: &here x\nb: *here\n", "a: x\nb: x\n", "a: !!str x\nb: |\n  x\n"])
def test_a_value_is_replaced_however_it_is_written(text: str) -> None:
    assert yaml.safe_load(replaced(text, {("a",): "y: #1"})) == {"a": "y: #1", "b": yaml.safe_load(text)["b"]}
