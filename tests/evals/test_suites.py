"""What holds for every suite: it loads, its items are sound, its scorer is total, and silence is not right."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_suites.asking import opened as asking
from eval_suites.asking.expected import expected
from eval_suites.asking.questions import eval_items
from eval_suites.backends.generate import Answer
from eval_suites.scorers import followed
from eval_suites.scorers.base import Score
from eval_suites.scorers.custom import scorer_version
from eval_suites.scorers.registry import SCORERS, score, scorer_for
from eval_suites.suites.chat_item import ChatItem
from eval_suites.suites.items import content_hash, read_items, read_texts
from eval_suites.suites.suite import ROOM, Suite, load_suites, named_suites, suite
from sft_core.config.evaluate import EvalSection, Limit, suite_name
from sft_core.config.file import checked
from sft_core.errors import ConfigError, EvalError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
NAMES = sorted(load_suites())
ASKED = [name for name in NAMES if suite(name).engine == "generate"]
MEASURED = [name for name in NAMES if suite(name).engine == "likelihood"]


@cache
def items_of(name: str) -> tuple[ChatItem, ...]:
    return tuple(read_items(suite(name), data_path=present(suite(name))))


def present(chosen: Suite) -> Path | None:
    """The folder of published benchmarks; skips the test where it does not hold this suite's."""
    if chosen.reader and not chosen.items_at(DATA).exists():
        pytest.skip(f"{chosen.items_at(DATA)} is not here")
    return DATA if chosen.reader else None


def scored(name: str, item: ChatItem, answer: str) -> Score:
    chosen = suite(name)
    return scorer_for(chosen.scorer, chosen.folder)(item.kind, item.expect, answer)


def one_of_each_kind(name: str) -> list[ChatItem]:
    found: dict[tuple[str, str], ChatItem] = {}
    for item in items_of(name):
        found.setdefault((item.kind, item.group), item)
    return list(found.values())


class TestEverySuite:
    @pytest.mark.parametrize("name", NAMES)
    def test_says_what_it_is(self, name: str) -> None:
        chosen = suite(name)
        assert chosen.name == name
        assert chosen.scale == {"likelihood": "log", "generate": "share"}.get(chosen.engine, chosen.scale)
        assert chosen.about.endswith(".")
        assert chosen.reader or chosen.engine == "lm_eval" or chosen.items_file.is_file()

    @pytest.mark.parametrize("name", ASKED)
    def test_items_are_sound(self, name: str) -> None:
        items = items_of(name)
        assert len(items) >= 60
        assert len({item.item_id for item in items}) == len(items)
        for item in items:
            assert item.cluster.strip()
            assert item.group.strip()
            assert suite(name).scorer or item.kind in SCORERS
            assert item.messages[-1]["role"] == "user", item.item_id
            assert item.messages[-1]["content"].strip(), item.item_id
            tools = item.parsed_tools()
            assert tools is None or all(tool["function"]["name"] for tool in tools)
        asked = [json.dumps([item.messages, item.tools]) for item in items]
        assert len(set(asked)) >= 0.95 * len(asked), "the same question many times"

    @pytest.mark.parametrize("name", ASKED)
    def test_reference_answers_are_right_and_no_answer_is_not(self, name: str) -> None:
        for item in items_of(name):
            if item.reference is not None:
                found = scored(name, item, item.reference)
                assert found.value in (1.0, None), f"{item.item_id}: {found}"
                assert found.metrics.get("partial", 1.0) == 1.0, f"{item.item_id}: {found}"
            for empty in ("", " \n\t"):
                found = scored(name, item, empty)
                assert found.value in (0.0, None), f"{item.item_id}: {found}"
                assert found.why

    @pytest.mark.parametrize("name", ASKED)
    @settings(max_examples=25, deadline=None)
    @given(text=st.text(max_size=60) | st.sampled_from(
        ["{}", "[]", "null", "1", "-", "|a|\n|-|", "# x", "[1]", "[9999]", "A", "<tool_call>", "f(a=1)", "1. a",
         "1e999",
         "٣", "x" * 5000, "\ud800", "<think>", "</think>", "[[[[", "1,000,000.5.5", "²"]))
    def test_its_scorer_takes_any_text(self, name: str, text: str) -> None:
        for item in one_of_each_kind(name):
            found = scored(name, item, text)
            assert found.value is None or 0.0 <= found.value <= 1.0
            assert all(math.isfinite(value) and 0.0 <= value <= 1.0 for value in found.metrics.values())
            assert found.value is None or found.value == 1.0 or found.why

    @pytest.mark.parametrize("name", MEASURED)
    def test_texts_are_sound(self, name: str) -> None:
        items = read_texts(suite(name), data_path=present(suite(name)))
        assert len(items) >= 10
        assert all(item.text.strip() and item.cluster for item in items)
        assert all(bool(item.messages) == (item.kind == "answer") for item in items)
        assert suite(name).through_template == any(item.messages for item in items)

    @pytest.mark.parametrize("name", ASKED + MEASURED)
    def test_samples_are_the_same_for_all_and_weighed(self, name: str) -> None:
        chosen, where = suite(name), present(suite(name))
        read = read_items if chosen.engine == "generate" else read_texts
        everything, few, more = (read(chosen, limit, where) for limit in (
            Limit(), Limit(3), Limit(6)))
        assert few == read(chosen, Limit(3), where)
        assert {item.item_id for item in few} <= {item.item_id for item in more} <= {i.item_id for i in everything}
        assert len(few) < len(more) <= len(everything)
        assert sum(item.weight for item in few) == pytest.approx(len(everything))

    @pytest.mark.parametrize("name", ASKED + MEASURED)
    def test_its_parts_share_no_cluster_and_are_everything(self, name: str) -> None:
        chosen, where = suite(name), present(suite(name))
        read = read_items if chosen.engine == "generate" else read_texts
        everything, search, held = (read(chosen, limit, where) for limit in (
            Limit(), Limit(held_back=0.4), Limit(held_back=0.4, part="held_back")))
        assert sorted(one.item_id for one in (*search, *held)) == sorted(one.item_id for one in everything)
        mine, theirs = ({one.cluster for one in some} for some in (search, held))
        assert not mine & theirs
        assert 0.3 < len(theirs) / len(mine | theirs) < 0.5
        assert {one.weight for one in (*search, *held)} == {1.0}
        few = read(chosen, Limit(2, held_back=0.4, part="held_back"), where)
        assert {one.item_id for one in few} <= {one.item_id for one in held}
        assert sum(one.weight for one in few) == pytest.approx(len(held))
        same = chosen.model_copy(update={"name": f"{name}@chat"})  # seen in one protocol is seen
        assert [one.item_id for one in read(same, Limit(held_back=0.4), where)] == [one.item_id for one in search]


def write(folder: Path, rows: list[object], **fields: object) -> str:
    """A suite of the user's own, by its path."""
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = {"about": "Mine.", "kind": "alignment", "engine": "generate", "items": "mine.jsonl", "max_new_tokens": 8,
            **fields}
    (folder / "mine.yaml").write_text(json.dumps(made))
    return str(folder / "mine.yaml")


ROW = {"id": "a", "kind": "bare", "cluster": "c", "messages": [{"role": "user", "content": "2 + 2?"}],
       "expect": {"answers": ["4"]}}


def test_a_suite_is_one_yaml_and_at_most_one_function(tmp_path: Path) -> None:
    name = write(tmp_path, [ROW, {**ROW, "id": "b", "kind": "shout"}], scorer="shout.py:loud", system="Be loud.")
    (tmp_path / "shout.py").write_text(
        "from eval_suites.scorers.base import Score\n"
        "def loud(expect, answer):\n"
        "    return Score(float(answer.isupper()), {}, '' if answer.isupper() else 'quiet')\n")
    chosen = suite(name)
    items = read_items(chosen)
    judge = scorer_for(chosen.scorer, chosen.folder)
    assert (chosen.name, chosen.folder) == ("mine", tmp_path)
    assert items[0].messages[0] == {"role": "system", "content": "Be loud."}
    assert [judge(item.kind, item.expect, "FOUR").value for item in items] == [1.0, 1.0]
    assert judge("shout", {}, "<think>AND</think>four") == Score(0.0, {}, "quiet")
    before = scorer_version(str(chosen.scorer), chosen.folder)
    (tmp_path / "other.py").write_text("def loud(expect, answer):\n    return None\n")
    assert scorer_version("other.py:loud", tmp_path) != before
    assert str(tmp_path) not in chosen.model_copy(update={"name": ""}).model_dump_json(), "a path in the protocol"


MODULES = {
    "shout.py": "import json\nimport near\nfrom eval_suites.scorers.base import Score\n"
                "def loud(expect, answer):\n    from pack import late\n    return Score(near.SCORE * late.ONE, {})\n",
    "near.py": "import pydantic\nfrom pack.inner import SCORE\n", "alone.py": "", "pack/__init__.py": "",
    "pack/inner.py": "from .deep import SCORE\n", "pack/deep.py": "SCORE = 1.0\n", "pack/late.py": "ONE = 1.0\n",
}


@pytest.mark.parametrize("spec", ["shout.py:loud", "pack.scorer:loud"])
def test_a_scorer_moves_with_every_module_that_it_imports(spec: str, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in {**MODULES, "pack/scorer.py": MODULES["shout.py"]}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    def scored() -> tuple[str, float | None]:
        return scorer_version(spec, tmp_path), scorer_for(spec, tmp_path)("", {}, "").value

    def rewritten(name: str, text: str) -> None:
        """At the same time of change, so that Python itself takes what it has compiled."""
        before = (tmp_path / name).stat()
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, ns=(before.st_atime_ns, before.st_mtime_ns))

    first = scored()
    assert first == scored()
    assert first[1] == 1.0
    rewritten("alone.py", "x = 1\n")
    assert scored() == first
    versions = {first[0]}
    for name, text in (("pack/deep.py", "SCORE = 0.0\n"), ("pack/deep.py", "SCORE = 1.0 \n"),
                       ("pack/late.py", "ONE = 0.0\n")):
        rewritten(name, text)
        version, value = scored()
        assert value == float("1.0 " in text), "scored by what lies there now"
        versions.add(version)
    assert len(versions) == 4
    monkeypatch.setattr(followed, "_version", lambda name: f"of {name}")
    assert scored()[0] not in versions, "a library's version"


def test_what_is_installed_is_not_loaded_twice(tmp_path: Path) -> None:
    for spec in ("json:loads", "yaml:safe_load", "eval_suites.scorers.short:nothing"):
        before = dict(sys.modules)
        scorer_version(spec, tmp_path)
        assert {name: sys.modules.get(name) for name in before} == before


def test_tasks_that_lie_in_one_part_alone_are_told(tmp_path: Path) -> None:
    """A cluster is never divided."""
    mine = write(tmp_path, [{**ROW, "id": f"{task}{n}", "task": task, "cluster": task} for task in "ab" for n in "12"])
    parts = [expected(suite(mine), EvalSection(suites=(mine,), held_back=0.5, limit=1, part=part), None)
             for part in ("search", "held_back")]
    assert sorted(one.elsewhere for one in parts) == [("a",), ("b",)]
    assert [(one.items, one.clusters) for one in parts] == [(1, 1)] * 2


def test_what_lies_outside_the_package_is_part_of_the_stage(tmp_path: Path) -> None:
    name = write(tmp_path, [ROW], scorer="mine.py:f")
    (tmp_path / "mine.py").write_text("def f(expect, answer): pass\n")
    before = content_hash(suite(name), None)
    assert before == content_hash(suite(name), None) != ""
    write(tmp_path, [{**ROW, "id": "z"}], scorer="mine.py:f")
    assert content_hash(suite(name), None) != before
    written, scored = content_hash(suite(name), None), scorer_version("mine.py:f", tmp_path)
    (tmp_path / "mine.py").write_text("from eval_suites.scorers.base import Score\ndef f(e, a): return Score(1, {})\n")
    assert scorer_version("mine.py:f", tmp_path) != scored
    assert content_hash(suite(name), None) == written, "how answers are scored changes no question"
    assert scorer_for("mine.py:f", tmp_path)("", {}, "").value == 1.0
    (tmp_path / "bfcl").mkdir()
    empty = content_hash(suite("bfcl"), tmp_path)
    (tmp_path / "bfcl" / "a.json").write_text("{}")
    assert content_hash(suite("bfcl"), tmp_path) != empty
    assert content_hash(suite("format"), None) == content_hash(suite("mmlu"), None) == ""
    with pytest.raises(EvalError, match=r"eval\.data_path"):
        content_hash(suite("bfcl"), None)


@pytest.mark.parametrize(("spec", "said"), [
    ("nowhere.py:f", "nowhere.py cannot be imported"), ("no.such.module:f", "no.such.module cannot be imported"),
    ("json:nothing", "json has no function 'nothing'"), ("json", "names no function"),
    ("broken.py:f", "broken.py cannot be imported"), ("raises.py:f", "raises.py cannot be imported: KeyError: 'key'")])
def test_a_missing_scorer_is_named(tmp_path: Path, spec: str, said: str) -> None:
    (tmp_path / "raises.py").write_text("{}['key']\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    with pytest.raises(EvalError, match=said):
        scorer_for(spec, tmp_path)


@pytest.mark.parametrize(("gives", "said"), [
    ("None", "mine.py:f gave None; a scorer gives Score"), ("1.0", "gave 1.0; a scorer"), ("'yes'", "gave 'yes'"),
    ("(1.0, {}, '')", "a scorer gives Score"), ("Score(7, {})", "value 7; it lies in 0 to 1"),
    ("Score(-0.1, {})", "value -0.1"), ("Score(float('nan'), {})", "value nan"), ("Score('1', {})", "value '1'"),
    ("Score(1.0, {'a': float('inf')})", "no finite numbers.*'a'"), ("Score(1.0, {'a': '1'})", "no finite numbers")])
def test_what_a_scorer_gives_is_a_score_or_the_item_is_unscored(tmp_path: Path, gives: str, said: str) -> None:
    (tmp_path / "mine.py").write_text(f"from eval_suites.scorers.base import Score\ndef f(e, a): return {gives}\n")
    chosen = suite(write(tmp_path, [ROW], scorer="mine.py:f"))
    item, = read_items(chosen)
    found = asking.scored(chosen.name, item, Answer("4", True, ""), scorer_for(chosen.scorer, chosen.folder))
    assert found.score is None
    assert re.search(said, found.why)
    assert found.metrics["stopped"] == 1.0


def test_a_score_may_be_a_truth_value_or_missing(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from eval_suites.scorers.base import Score\n"
                                      "def f(e, a): return Score(*e['s'])\n")
    found = scorer_for("mine.py:f", tmp_path)
    assert found("", {"s": [True, {"a": 2}]}, "") == Score(1.0, {"a": 2})
    assert isinstance(found("", {"s": [True, {}]}, "").value, float)
    assert found("", {"s": [None, {}, "no judge"]}, "") == Score(None, {}, "no judge")


@pytest.mark.parametrize(
    ("row", "said"),
    [("x", "mine.jsonl:2 is not an item: it is str"), ({**ROW, "id": 3}, "mine.jsonl:2.*id is int, not str"),
     ({"id": "b"}, "mine.jsonl:2.*lacks kind, cluster, messages, expect"),
     ({**ROW, "kind": "haiku"}, ":2.*haiku.*bare"),
     ({**ROW, "messages": []}, ":2.*messages are not turns"), ({**ROW, "tools": "{"}, ":2.*tools are neither"),
     ({**ROW, "messages": [{"role": "human", "content": "x"}]}, ":2.*messages are not turns"),
     ({**ROW, "reference": 4}, ":2.*reference are text"), (ROW, "'a'.*paired by id")])
def test_bad_rows_are_named_by_line(tmp_path: Path, row: object, said: str) -> None:
    with pytest.raises(EvalError, match=said):
        read_items(suite(write(tmp_path, [ROW, row])))


def test_bad_suites_are_named(tmp_path: Path) -> None:
    for fields, said in (({"colour": 1}, "there is no key 'colour'; keys are about,.*variants"),
                         ({"engine": "guess"}, "engine: .*'generate'.*it is 'guess'"), ({"items": None}, "needs items"),
                         ({"engine": "likelihood", "scale": "log", "scorer": "a:b"}, "scorer and variants are for")):
        with pytest.raises(EvalError, match=rf"mine\.yaml is not a valid suite(.|\n)*{said}"):
            suite(write(tmp_path, [ROW], **fields))
    with pytest.raises(EvalError, match="not@here.yaml cannot be read"):
        suite(str(tmp_path / "not@here.yaml"))
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(EvalError, match="holds list"):
        suite(str(tmp_path / "list.yaml"))
    with pytest.raises(EvalError, match=r"mine\.yaml is not a valid suite: line \d+: engine: .*it is 'guess'"):
        suite(write(tmp_path, [ROW], engine="guess"))
    (tmp_path / "twice.yaml").write_text("about: one\nkind: alignment\nabout: two\n")
    with pytest.raises(EvalError, match=r"twice\.yaml:3: about is given twice"):
        suite(str(tmp_path / "twice.yaml"))
    with pytest.raises(EvalError, match="has no items"):
        read_items(suite(write(tmp_path, [])))
    with pytest.raises(EvalError, match="no reader 'nature'.*bfcl"):
        read_items(suite(write(tmp_path, [ROW], reader="nature")), data_path=tmp_path)
    with pytest.raises(EvalError, match="no variant 'upside'"):
        read_items(suite(write(tmp_path, [ROW], variants=["upside"])))


def test_answers_are_measured_through_the_chat_template(tmp_path: Path) -> None:
    row = {"id": "a", "kind": "answer", "cluster": "c", "messages": ROW["messages"], "answer": "4"}
    fields = {"engine": "likelihood", "scale": "log", "max_new_tokens": None}
    assert read_texts(suite(write(tmp_path, [row], chat=True, **fields)))[0].text == "4"
    with pytest.raises(EvalError, match="chat: true"):
        read_texts(suite(write(tmp_path, [row], **fields)))
    for bad, said in (({**row, "kind": "poem"}, "kinds are text and answer"), ({**row, "answer": ""}, "text is empty"),
                      ({**row, "kind": "text"}, "lacks text")):
        with pytest.raises(EvalError, match=rf"mine.jsonl:1.*{said}"):
            read_texts(suite(write(tmp_path, [bad], **fields)))


def test_questions_for_decontamination_are_the_clean_ones(tmp_path: Path) -> None:
    asked = {"mirror": None, "include_path": None, "scratch": tmp_path}
    for name in ("format", *MEASURED[:1]):
        present(suite(name))
        found = eval_items([name], data_path=DATA, **asked)
        read = read_items if suite(name).engine == "generate" else read_texts
        assert {item.id for item in found} == {item.item_id for item in read(suite(name), data_path=DATA)}


def test_answers_and_options_are_looked_for_too(tmp_path: Path) -> None:
    said = [{"role": "user", "content": one} for one in ("first", "second")]
    rows = [{"id": "a", "kind": "letter", "cluster": "a", "reference": "B", "messages": said[:1],
             "expect": {"letter": "B", "options": ["iron", "gold"]}},
            {"id": "b", "kind": "words", "cluster": "b", "messages": said, "expect": {"reference": ["one", "two"]}},
            {"id": "c", "kind": "short_answer", "cluster": "c", "messages": said[1:], "reference": "4",
             "expect": {"answers": ["4", "four"]}}]
    asked = {"mirror": None, "include_path": None, "scratch": tmp_path}
    assert eval_items([write(tmp_path, rows)], **asked) == [
        ("mine", "a", "first", ("B",), ("iron", "gold")),
        ("mine", "b", "first", (), ()), ("mine", "b", "second", ("one", "two"), ()),
        ("mine", "c", "second", ("4", "four"), ())]
    answer = {"id": "d", "kind": "answer", "cluster": "d", "messages": said[:1], "answer": "It is 4"}
    measured = write(tmp_path, [answer], engine="likelihood", scale="log", max_new_tokens=None, chat=True)
    assert eval_items([measured], **asked) == [("mine", "d", "first", ("It is 4",), ())]


def test_shipped_items_are_no_python() -> None:
    """Items are data: nothing in them is imported, and every file belongs to a suite."""
    files = {path.name for path in (ROOM / "rows").iterdir()}
    used = {chosen.items for chosen in load_suites().values() if chosen.engine != "lm_eval" and not chosen.reader}
    assert files == used


def test_the_contract_itself_can_fail() -> None:
    assert score("bare", {"answers": ["4"]}, "5").value == 0.0
    assert score("bare", {"answers": ["4"]}, "").why


def test_a_suite_of_ones_own_has_a_name(tmp_path: Path) -> None:
    """The path was its name everywhere: `base/./my_qa.yaml`."""
    path = write(tmp_path, [ROW])
    assert list(named_suites([path, "format"])) == ["mine", "format"] == list(EvalSection(
        suites=(path, "format")).names)
    path = write(tmp_path, [ROW], name="my qa")
    assert (suite(path).name, suite_name(path)) == ("my qa", "my qa")
    assert eval_items([path], mirror=None, include_path=None, scratch=tmp_path)[0].suite == "my qa"
    (tmp_path / "mmlu.yaml").write_text((tmp_path / "mine.yaml").read_text().replace('"my qa"', '"mmlu"'))
    for suites, said in (((path, path), "several suites are called 'my qa'"),
                         ((str(tmp_path / "mmlu.yaml"), "mmlu"), "several suites are called 'mmlu'.*`name:`")):
        with pytest.raises(ConfigError, match=said):
            checked(EvalSection, suites=suites)
    with pytest.raises(ConfigError, match="is called 'a/b'.*no slash"):
        checked(EvalSection, suites=(write(tmp_path, [ROW], name="a/b"),))


def test_the_example_of_the_documentation_runs_as_it_stands(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "SUITES.md").read_text()
    blocks = re.findall(r"```\w+\n(.*?)```", page[page.index("## A suite of your own"):], re.DOTALL)
    for name, text in zip(("my_suite.yaml", "my_scorer.py", "my_items.jsonl"), blocks, strict=False):
        (tmp_path / name).write_text(text)
    chosen = suite(str(tmp_path / "my_suite.yaml"))
    (item,) = read_items(chosen)
    judge = scorer_for(chosen.scorer, chosen.folder)
    assert judge(item.kind, item.expect, str(item.reference)).value == 1.0
    assert judge(item.kind, item.expect, "No.") == Score(0.0, {}, "without 'hello'")
