"""`sft synth`: a flow of its own that is killed and goes on, and whose rows are a source."""

from __future__ import annotations

import json
import logging
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval_suites.backends.cache import Cached
from flows.forms import synth_path_of
from sft_core.config import synth
from sft_core.config.data import SourceSection
from sft_core.config.section import Section
from sft_core.config.synth_file import LoadedSynth, load_synth
from sft_core.conversation import Conversation
from sft_core.data.intake import Taken, take_in
from sft_core.errors import ConfigError, DataError, EvalError
from tasks.stages import Done, Workspace
from tasks.synth.licence import licence_of_rows
from tasks.synth.made import publish
from tasks.synth.reject import rejection
from tasks.synth.self_instruct import self_instruction
from tests.evals.fake_server import serve

Sft = Callable[..., subprocess.CompletedProcess[str]]
SHORT = ["reject.prompts.limit=10", "reject.samples=2", "decontaminate={}"]
TOOL = {"type": "function", "function": {"name": "find", "parameters": {
    "type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}}}


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home", None)


def written(file: Path, **fields: Any) -> LoadedSynth:
    file.write_text(yaml.safe_dump({"name": "mine", **fields}))
    return load_synth(file)


def rows_of(done: Done, name: str = "rows.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (done.folder / name).read_text().splitlines()]


def read(done: Done, place: Workspace, caplog: pytest.LogCaptureFixture) -> list[Conversation]:
    """What a run would read; it warns of nothing."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, "sft"):
        found = list(take_in(SourceSection(path=str(done.folder / "rows.jsonl")), Taken(), scratch=place.scratch,
                             mirror=None))
    assert not caplog.records
    assert all(isinstance(one, Conversation) for one in found)
    return found  # type: ignore[return-value]


def test_the_command_makes_a_source_and_says_the_same_again(sft: Sft, home: Path) -> None:
    options = [part for one in ["name=few", *SHORT] for part in ("--set", one)]
    first = sft("synth", "reject", *options)
    assert first.returncode == 0, first.stderr
    assert "pass@1" in first.stdout
    folder = home / "synth" / "few"
    assert f"to train  data.sources as in {folder / 'source.yaml'}" in first.stdout
    assert {file.name for file in folder.iterdir()} == {"rows.jsonl", "random.jsonl", "left.jsonl", "report.json",
                                                        "manifest.json", "config.yaml", "source.yaml"}
    source = SourceSection.model_validate(yaml.safe_load((folder / "source.yaml").read_text())["sources"][0])
    assert (source.path, source.kind, source.generator) == (str(folder.resolve() / "rows.jsonl"), "synthetic", "tiny")
    manifest = json.loads((folder / "manifest.json").read_text())
    row = json.loads((folder / "rows.jsonl").read_text().splitlines()[0])
    assert manifest["generators"][row["provenance"]["generator"]].startswith("tiny, transformers")
    assert manifest["provenance"]["kind"] == "synthetic"
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in home.glob("stages/synth/*/out/*")}
    again = sft("synth", "reject", *options)
    assert again.returncode == 0, again.stderr
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in before} == before
    assert again.stdout == first.stdout
    wrong = sft("synth", "reject", "--set", "reject.sample=3")
    assert wrong.returncode == 2
    assert "unknown key; did you mean samples?" in wrong.stderr


def test_a_killed_run_asks_only_what_it_has_not(place: Workspace, monkeypatch: pytest.MonkeyPatch,
                                                tmp_path: Path) -> None:
    config = load_synth(synth_path_of("reject"), SHORT).config
    whole = rejection(config, Workspace(tmp_path / "other", None))
    put, puts, made = Cached.generate, 0, []

    def counted(self: Cached, *args: Any) -> Any:
        made.append(self)
        for found in put(self, *args):
            nonlocal puts
            puts += 1
            if puts == 7:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(Cached, "generate", counted)
    with pytest.raises(KeyboardInterrupt):
        rejection(config, place)
    done = rejection(config, place)
    assert (made[0].computed, made[1].computed) == (7, 13)
    for name in ("rows.jsonl", "random.jsonl", "left.jsonl", "report.json"):
        assert (done.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    other = rejection(load_synth(synth_path_of("reject"), [*SHORT, "reject.keep=1"]).config, place)
    assert other.fingerprint != done.fingerprint
    assert made[2].computed == 0, "another threshold generates nothing"


def test_conversations_with_tools_become_rows_that_are_read_as_such(
        place: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def chat(town: str, wanted: str) -> dict[str, Any]:
        called = {"type": "function", "function": {"name": "find", "arguments": json.dumps({"town": wanted})}}
        return {"tools": json.dumps([TOOL]), "messages": [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Where is {town}?"},
            {"role": "assistant", "content": "", "tool_calls": [called]}]}

    rows = [chat("Ulm", "Ulm"), chat("Bonn", "Bonn"), chat("Ulm", "Ulm"), {"messages": [{"role": "user"}]}]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def say(body: dict[str, Any], number: int) -> str:
        assert body["tools"] == [TOOL]
        town = "Ulm" if body["seed"] % 2 else "Köln"
        return "Let me look.\n<tool_call>" + json.dumps({"name": "find", "arguments": {"town": town}}) + "</tool_call>"

    with serve(say) as (url, _):
        loaded = written(
            tmp_path / "c.yaml", generator={"endpoint": {"url": url, "model": "m"}},
            reject={"prompts": {"sources": [{"path": str(tmp_path / "chats.jsonl")}]}, "samples": 6,
                    "verify": {"tool_calls": {}}})
        done = rejection(loaded.config, place)
    report = done.result["report"]
    assert (report["prompts"], report["answers"]) == (2, 12)
    assert report["prompts_left_out"].pop("repeated") == 1
    assert sum(report["prompts_left_out"].values()) == 1, "the row without an answer"
    conversation, = read(done, place, caplog)
    assert [turn.role for turn in conversation.turns] == ["system", "user", "assistant"]
    last = conversation.turns[-1]
    assert (last.content, json.loads(last.tool_calls[0].arguments)) == ("Let me look.", {"town": "Ulm"})
    assert json.loads(conversation.tools or "") == [TOOL]
    assert publish(loaded, done, place) == place.root / "synth" / "mine"


def test_half_a_character_in_what_a_server_says_stops_nothing(place: Workspace, tmp_path: Path,
                                                              caplog: pytest.LogCaptureFixture) -> None:
    called = {"type": "function", "function": {"name": "find", "arguments": '{"town": "Ulm"}'}}
    rows = [{"tools": json.dumps([TOOL]), "messages": [{"role": "user", "content": "Where?"}, {
        "role": "assistant", "content": "", "tool_calls": [called]}]}]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def say(body: dict[str, Any], number: int) -> str:
        return 'so \ud800 <tool_call>{"name": "find", "arguments": {"town": "Ulm \\ud800"}}</tool_call>'

    with serve(say) as (url, _):
        loaded = written(tmp_path / "c.yaml", generator={"endpoint": {"url": url, "model": "m"}}, reject={
            "prompts": {"sources": [{"path": str(tmp_path / "chats.jsonl")}]}, "samples": 2,
            "verify": {"tool_calls": {"arguments": False}}})
        done = rejection(loaded.config, place)
    conversation, = read(done, place, caplog)
    last = conversation.turns[-1]
    assert (last.content, last.tool_calls[0].arguments) == ("so \ufffd", '{"town": "Ulm \ufffd"}')


def test_licences_are_carried_where_all_are_known(tmp_path: Path) -> None:
    rows = tmp_path / "data" / "rows.jsonl"
    rows.parent.mkdir()
    rows.write_text("")
    (tmp_path / "weights").mkdir()

    def said(generator: dict[str, Any], **source: str) -> tuple[str, str]:
        config = written(tmp_path / "c.yaml", generator=generator, reject={
            "prompts": {"sources": [{"path": str(rows), **source}]}, "verify": {"number": {}}}).config
        return licence_of_rows(config, None)

    tiny, weights = {"model": {"path": "tiny"}}, {"model": {"path": str(tmp_path / "weights")}}
    served = {"endpoint": {"url": "http://127.0.0.1:1/v1", "model": "qwen"}}
    assert said(tiny, licence="cc-by-4.0") == ("cc-by-4.0, apache-2.0", "")
    assert said(tiny, licence="apache-2.0") == ("apache-2.0", "")
    for licence, note in (said(tiny), said(weights, licence="mit"), said(served, licence="mit")):
        assert licence == ""
        assert "not known" in note
        assert all(line.startswith("#") for line in note.splitlines())
    assert "#   qwen: not known" in said(served, licence="mit")[1]
    assert f"#   {rows}: mit" in said(served, licence="mit")[1]
    seeded = written(tmp_path / "c.yaml", generator=tiny, self_instruct={}).config
    assert licence_of_rows(seeded, None) == ("apache-2.0", "")


def test_items_with_a_scorer_of_their_own(place: Workspace, tmp_path: Path) -> None:
    item = {"id": "1", "kind": "letter", "cluster": "c", "messages": [{"role": "user", "content": "A or B?"}],
            "expect": {"letter": "B", "options": ["x", "y"]}, "reference": "B"}
    (tmp_path / "items.jsonl").write_text(json.dumps(item) + "\n")
    (tmp_path / "my.yaml").write_text(yaml.safe_dump({
        "about": "x", "kind": "capability", "engine": "generate", "items": "items.jsonl", "max_new_tokens": 4}))
    with serve(lambda body, n: "B" if body["seed"] % 2 else "A") as (url, _):
        for prompts in ({"items": str(tmp_path / "items.jsonl")}, {"suite": str(tmp_path / "my.yaml")}):
            config = written(tmp_path / "c.yaml", generator={"endpoint": {"url": url, "model": "m"}}, reject={
                "prompts": prompts, "samples": 8, "verify": {"scorer": {}}}).config
            row, = rows_of(rejection(config, place))
            assert row["messages"][-1] == {"role": "assistant", "content": "B"}
    with pytest.raises(ConfigError, match="suite is the path of a YAML of your own, and it is 'tiny_format'"):
        written(tmp_path / "c.yaml", generator={"model": {"path": "tiny"}}, reject={
            "prompts": {"suite": "tiny_format"}, "verify": {"scorer": {}}})


def test_self_instruct_grows_rows_that_are_a_source_and_goes_on_after_its_server_died(
        place: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def answer(text: str, number: int) -> str:
        if text.endswith("Classification:"):
            return "No"
        draw = random.Random(number)
        words = " ".join("".join(draw.choices("aeioulmnrst", k=5)) for _ in range(8))
        return f"(none)\nOutput: {words}." if text.endswith("Input:") else f" Tell of {words}.\nTask 10: Draw {words}."

    def made(url: str) -> LoadedSynth:
        return written(tmp_path / "c.yaml", generator={"endpoint": {"url": url, "model": "m", "retries": 0}},
                       self_instruct={"target": 6, "prompts_per_round": 3, "max_rounds": 4})

    with serve(lambda body, n: answer(body["messages"][0]["content"], n) if n <= 8 else (500, {}, "x")) as (url, _):
        with pytest.raises(EvalError, match="have no answer"):
            self_instruction(made(url).config, place)
        kept = (place.root / "cache" / "synth.jsonl").read_text().split("\n")
        assert 8 <= len(kept) <= 9  # one of the eight may be on its way when another fails
    with serve(lambda body, n: answer(body["messages"][0]["content"], n + 8)) as (url, seen):
        done = self_instruction(made(url).config, place)
        assert (place.root / "cache" / "synth.jsonl").read_text().split("\n")[:len(kept)] == kept
        asked = len(seen)
    report, rows = done.result["report"], rows_of(done)
    assert report["rows"] == len(rows) == 6
    assert report["instructions"]["forbidden_word"] >= 3
    assert sum(one["requests"] for one in report["rounds"]) < asked + 8
    assert {tuple(sorted(row["provenance"])) for row in rows} == {("generator", "parents", "prompts", "round")}
    assert len(read(done, place, caplog)) == 6
    assert [one["why"] for one in rows_of(done, "left.jsonl")].count("forbidden_word") == report["instructions"][
        "forbidden_word"]


def test_a_generator_that_says_nothing_is_told_and_leaves_what_it_said(place: Workspace, tmp_path: Path) -> None:
    with serve(lambda body, n: "") as (url, _):
        config = written(tmp_path / "c.yaml", generator={"endpoint": {"url": url, "model": "m"}},
                         self_instruct={"prompts_per_round": 2}).config
        with pytest.raises(DataError, match=r"no row came of it.* 0 rows out of 3 rounds.*Left out: .*left.jsonl says"):
            self_instruction(config, place)


@pytest.mark.parametrize(("fields", "why"), [
    ({"reject": None}, "give one of reject"),
    ({"self_instruct": {}}, "give one of reject"),
    ({"generator": {}}, "give one of model"),
    ({"generator": {"model": {"path": "tiny"}, "plain": "no place"}}, "plain holds no {prompt}"),
    ({"generator": {"endpoint": {"url": "http://h/v1", "model": "m"}, "until": ["x"]}}, "for weights that are loaded"),
    ({"reject": {"prompts": {}, "verify": {"words": {}}}}, "give one of sources, items and suite"),
    ({"reject": {"prompts": {"items": "x"}, "verify": {}}}, "name a verifier at least"),
])
def test_what_does_not_go_together_is_told(tmp_path: Path, fields: dict[str, Any], why: str) -> None:
    whole = {"generator": {"model": {"path": "tiny"}},
             "reject": {"prompts": {"items": "x"}, "verify": {"words": {}}}} | fields
    with pytest.raises(ConfigError) as told:
        written(tmp_path / "c.yaml", **whole)
    assert why in str(told.value)


def test_no_field_is_idle(tmp_path: Path) -> None:
    """Every field of these sections is read where rows are made: its name stands behind a dot outside its own file."""
    root = Path(__file__).resolve().parents[2]
    code = "".join(file.read_text() for room in ("sft_core/synth", "eval_suites/verifiers", "eval_suites/asking",
                                                 "tasks/synth") for file in (root / room).glob("*.py"))
    own = [one for one in vars(synth).values() if isinstance(one, type) and issubclass(one, Section)
           and one.__module__ == synth.__name__]
    assert len(own) > 10
    idle = [f"{one.__name__}.{name}" for one in own for name in one.model_fields if f".{name}" not in code]
    assert not [name for name in idle if name != "SynthConfig.tracking"]
    assert ".tracking" in (root / "flows/synth.py").read_text()
