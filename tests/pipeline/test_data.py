"""What a person sees of the data: `sft data check`, `show` and `report`, manifest and card, uses that are forbidden."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from flows.cli import app
from sft_core.config.experiment import ExperimentConfig
from sft_core.config.file import load
from sft_core.conversation import Origin
from sft_core.data.curate.look import Looked, conversations_at
from sft_core.data.mix.plan import Mixed
from sft_core.data.provenance.handed import handed
from sft_core.errors import ConfigError, DataError
from tasks.curate import Curation, curation
from tasks.data_rows import VIEWS, Texts, Wish, listed
from tasks.data_view import in_short, parts, way
from tasks.mixture import Reached
from tasks.needs import data_lacks
from tasks.pages.data import write_data_page
from tasks.provenance import unknown_licences, write_manifest
from tasks.stages import Workspace
from tests.pipeline.conftest import SMALL

MAIL = "ann.lee@firma.de"
HOSTILE = "\x1b[31mred</pre><script>alert(1)</script>"
LONG = "the harbour of the town was built in the spring and its walls are made of stone from the northern hills "


def rows() -> list[dict[str, str]]:
    """Each kind of thing that a curation finds; every row in words of its own."""
    plain = [{"prompt": f"What is told of topic {n * 7919}?", "completion": f"It is number {n * 104729}, and {name}."}
             for n, name in enumerate(["rivers", "trains", "maps", "bread", "wool", "glass", "salt", "bells"])]
    return [*plain,
            {"prompt": "Tell me of the harbour.", "completion": LONG + "and of oak."},
            {"prompt": "Tell me of the harbour.", "completion": LONG + "and of pine."},
            plain[0],
            {"prompt": "Whom do I write to?", "completion": f"Write to {MAIL} in the morning, please."},
            {"prompt": "What do you think?", "completion": "As an AI language model, I cannot have opinions of it."},
            {"prompt": "What was it?", "completion": "It donâ€™t matter to the people of the old town."},
            {"prompt": "How does it look?", "completion": HOSTILE}]


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    """Two sources: everything that can be found, and rows that are no conversations beside one that is."""
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    (tmp_path / "first" / "README.md").write_text("---\nlicense: mit\n---\n")
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "few.jsonl").write_text(
        json.dumps({"prompt": "Who sings here at night?", "completion": "The owls sing."}) + "\nno row\n")
    data = {**SMALL["data"], "sources": [{"path": str(tmp_path / "first" / "all.jsonl"), "name": "first"},
                                         {"path": str(tmp_path / "second" / "few.jsonl"), "name": "second"}],
            "quality": {"drop": ["refusal"]}, "pii": {"action": "redact"}, "validation_share": 0.0}
    file = tmp_path / "data.yaml"
    file.write_text(yaml.safe_dump({**SMALL, "name": "looked", "data": data}))
    return file


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home", None)


@pytest.fixture
def config(configured: Path) -> ExperimentConfig:
    return load(configured).here().config


@pytest.fixture
def curated(config: ExperimentConfig, place: Workspace) -> Curation:
    return curation(config, place)


def sft(place: Workspace, monkeypatch: pytest.MonkeyPatch, *words: str) -> Result:
    monkeypatch.setenv("SFT_HOME", str(place.root))
    monkeypatch.setenv("COLUMNS", "200")
    return CliRunner().invoke(app, ["data", *words])


def test_the_tables_tell_every_step_and_the_counts_add_up(curated: Curation) -> None:
    told = way(curated.done.result["sources"])
    assert {row["source"] for row in told} == {"first", "second", "all"}
    together = [row for row in told if row["source"] == "all"]
    assert [row["step"] for row in together][:4] == ["read", "normalise", "quality", "personal data"]
    for row in told:
        assert int(row["in"]) == int(row["left out"]) + int(row["out"])
    by_step = {row["step"]: row for row in together}
    assert (by_step["read"]["why"], by_step["quality"]["why"]) == ("unreadable 1", "refusal 1")
    assert (by_step["normalise"]["changed"], by_step["personal data"]["changed"]) == ("2", "1")
    assert by_step["near duplicates of conversations"]["why"] == "near_duplicate 1"
    assert in_short(curated.done.result["sources"])[1] == "second: 2 rows read, read −1; 1 curated"


def test_a_part_of_the_curation_that_is_new_shows_by_itself(curated: Curation) -> None:
    found = curated.done.result | {
        "recall": {"recalls": [
            {"suite": "quiz", "change": "typos", "planted": 40, "found": 38, "low": 0.8308, "high": 0.9939},
            {"suite": "quiz", "change": "numbers", "planted": 0, "found": 0, "low": 0.0, "high": 1.0}],
            "false": {"rows": 1000, "with_decoys": 2, "low": 0.0, "high": 0.01}},
        "novel": {"mine": {"rows": 1000, "mean_rate": 0.5}, "random": {"rows": 1000}}, "nothing": []}
    tables = {part.title: part.rows for part in parts(found)}
    first, second = next(rows for title, rows in tables.items() if title.startswith("Evaluation items"))
    assert first == {"suite": "quiz", "change": "typos", "planted": "40", "found": "38", "share": "95.0%",
                     "95 % interval": "83.1% to 99.4%"}
    assert "too short" in next(part.note for part in parts(found) if part.title.startswith("Evaluation"))
    assert second["share"] == "–", "of nothing planted nothing can be said"
    (false,) = next(rows for title, rows in tables.items() if "nobody asks" in title)
    assert false["share"] == "0.2%"
    assert tables["Novel"] == [{"of": "mine", "rows": "1,000", "mean rate": "50.0%"},
                               {"of": "random", "rows": "1,000", "mean rate": "–"}]
    assert "Nothing" not in tables


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_shows_what_stands_there_and_nothing_personal(
    view: str, config: ExperimentConfig, curated: Curation, place: Workspace,
) -> None:
    told, total, _ = listed(Wish(view), curated.done.folder, Texts(config, curated, place, 400))
    assert len(told) == total > 0
    assert MAIL not in str(told)
    assert "\x1b" not in str(told)
    texts = " ".join(text for one in told for text in one.texts)
    wanted = {"rejected": "As an AI", "duplicates": "oak", "flaws": "As an AI", "personal": "[EMAIL_1]",
              "changes": "donâ€™t"}
    assert wanted[view] in texts


def test_of_two_that_are_alike_what_differs_is_marked(
    config: ExperimentConfig, curated: Curation, place: Workspace,
) -> None:
    (near,), total, _ = listed(Wish("duplicates", kind="near"), curated.done.folder,
                               Texts(config, curated, place, 4000))
    assert total == 1
    assert [piece.text.strip() for side in near.sides() for piece in side if not piece.same] == ["pine", "oak"]
    assert near.said.startswith("0.")
    assert near.said.endswith("like first, all.jsonl:9, which stays")


def test_of_a_long_text_both_ends_are_shown(config: ExperimentConfig, curated: Curation, place: Workspace) -> None:
    (near,), *_ = listed(Wish("duplicates", kind="near"), curated.done.folder, Texts(config, curated, place, 60))
    assert re.fullmatch(r"user: Tell me of the harbour\..*… \(1\d\d characters\) … .*pine\.", near.texts[0], re.DOTALL)


def test_rows_are_paged_and_chosen(curated: Curation) -> None:
    def looked(view: str = "rejected") -> Looked:
        return Looked(view, curated.done.folder, curated.shards)

    everything = looked().page(0, 99)
    assert [looked().page(at, 1).finds[0] for at in range(everything.total)] == everything.finds
    assert {row["source"] for row in looked().only("second", None).page(0, 99).finds} == {"second"}
    assert looked().only(None, "refusal").page(0, 99).total == 1
    with pytest.raises(ConfigError, match="none of 'refusa' here; there is .*refusal"):
        looked().only(None, "refusa")
    some = looked("flaws").sample("refusal", 1, seed=3)
    assert some == looked("flaws").sample("refusal", 1, seed=3)


def test_where_nothing_is_put_right_there_is_nothing_to_show(configured: Path, place: Workspace) -> None:
    config = load(configured, ["data.normalise.kinds=[]"]).here().config
    curated = curation(config, place)
    wish = Wish("changes", source="first", kind="html")
    assert listed(wish, curated.done.folder, Texts(config, curated, place, 40)) == ([], 0, 0)


def test_a_look_brings_none_of_the_large_libraries() -> None:
    """They took half of the time of `sft data show`."""
    code = "import sys, flows.cli, flows.data; print([one for one in sys.argv[1:] if one in sys.modules])"
    large = ["torch", "transformers", "scipy", "alembic", "lm_eval", "mlflow"]
    done = subprocess.run([sys.executable, "-c", code, *large], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_finds_are_not_rows(configured: Path, place: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                            ) -> None:
    file = tmp_path / "first" / "all.jsonl"
    twice = {"prompt": "Whom else do I write to?", "completion": "Write to bob@firma.de, else to eve@firma.de, please."}
    file.write_text(file.read_text() + json.dumps(twice) + "\n")
    done = sft(place, monkeypatch, "show", str(configured), "--personal")
    assert done.stdout.splitlines()[-1] == "3 of 3 finds in 2 rows of --personal, from 0 on"
    done = sft(place, monkeypatch, "show", str(configured), "--personal", "-n", "2")
    assert done.stdout.splitlines()[-1] == "2 of 3 finds in 2 rows of --personal, from 0 on; `-n 3` shows all"
    done = sft(place, monkeypatch, "show", str(configured), "--flaws")
    assert done.stdout.splitlines()[-1] == "1 of 1 row of --flaws, from 0 on"
    done = sft(place, monkeypatch, "report", str(configured), "--out", str(tmp_path / "data.html"))
    assert "<b>email</b> (3 finds in 2 rows)" in (tmp_path / "data.html").read_text(), done.output


def test_rows_are_found_again_where_they_stand(curated: Curation, config: ExperimentConfig) -> None:
    file = config.data.sources[0].path
    wanted = {Origin("first", file, 9), Origin("first", file, 12), Origin("first", file, 999)}
    found = conversations_at(curated.shards, wanted)
    assert {origin.line for origin in found} == {9, 12}
    assert found[Origin("first", file, 9)].turns[1].content.endswith("oak.")


def test_the_page_has_everything_loads_nothing_and_obeys_nothing(
    config: ExperimentConfig, curated: Curation, place: Workspace, tmp_path: Path,
) -> None:
    mixed = [Mixed("source", "first", 12, 0.9, (0.5, 0.5), 0.5, 6, 60, 6, 1)]
    ends = handed(curated.done.result["sources"], {"sources": [
        {"source": "first", "rejected": {"exact_duplicate": 1, "near_duplicate": 1, "refusal": 1, "too_long": 3},
         "held_out": 2, "validation": 1, "train": 6, "train_examples": 7},
        {"source": "second", "rejected": {"unreadable": 1}, "held_out": 0, "validation": 0, "train": 1,
         "train_examples": 1}]}, {"first": 5, "second": 1})
    write_data_page(tmp_path / "page.html", config, curated, place, Reached(ends, mixed, "the source x limits it"))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(page.encode()) < 2_000_000
    for there in ("The way of the rows", "<svg", "refusal", "near", "<mark>pine</mark>", "[EMAIL_1]", "Languages of",
                  "source first", "50.0%", "mit", "Of 13 curated rows 3 are left out in rendering (too_long 3), 2 are "
                  "items of held-out tasks, 1 are for validation, and 7 give 8 training examples, of which 6 are used",
                  "the source x limits it.", write_manifest(config, curated, place).result["fingerprint"]):
        assert there in page, there
    assert MAIL not in page
    assert "<script>alert" not in page
    assert "\x1b" not in page
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page)


def test_the_manifest_tells_where_data_comes_from_and_stays_the_same_elsewhere(
    configured: Path, curated: Curation, config: ExperimentConfig, place: Workspace, tmp_path: Path,
) -> None:
    made = write_manifest(config, curated, place)
    first, second = made.result["sources"]
    assert (first["licence"]["said"], first["licence"]["by"], second["licence"]["said"]) == ("mit", "README.md", None)
    assert first["path"] == "all.jsonl"
    assert len(first["parts"][0]["sha256"]) == 64
    assert (made.result["rows_in"], made.result["rows_out"]) == (17, 13)
    card = (made.folder / "README.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in card + json.dumps(made.result)
    assert "| first | mit | README.md |" in card
    assert write_manifest(config, curated, place).reused

    elsewhere = Workspace(tmp_path / "other", None)
    again = write_manifest(config, curation(config, elsewhere), elsewhere)
    assert not again.reused
    assert again.result["fingerprint"] == made.result["fingerprint"]
    told = load(configured, ["data.sources.1.licence=cc-by-4.0"]).here().config
    known = write_manifest(told, curation(told, place), place)
    assert known.result["fingerprint"] != made.result["fingerprint"]
    assert known.result["sources"][1]["licence"]["by"] == "configuration"


def test_what_a_licence_forbids_stops_before_anything_is_read(configured: Path, place: Workspace) -> None:
    def looked(*given: str) -> tuple[list[str], list[str]]:
        config = load(configured, list(given)).here().config
        return [one.what for one in data_lacks(config, place)], unknown_licences(config, None)

    assert looked()[0] == []
    assert [said.split(":")[0] for said in looked("data.use=research")[1]] == ["second"]
    lacks, _ = looked("data.use=commercial", "data.sources.1.licence=cc-by-nc-4.0")
    assert len(lacks) == 1
    assert "the source second is under cc-by-nc-4.0, which forbids commercial use" in lacks[0]
    lacks, _ = looked("data.use=commercial")
    assert "the licence of the source second is not known" in lacks[0]
    assert looked("data.use=commercial", "data.sources.1.licence=own") == ([], [])
    assert not (place.root / "stages").exists()


class TestCommands:
    def test_check_tells_all_and_what_is_next(self, configured: Path, place: Workspace,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
        done = sft(place, monkeypatch, "check", str(configured))
        assert done.exit_code == 0, done.output
        for there in ("The way of the rows", "refusal 1", "Licences; declared use: none",
                      "warning: second: its licence", f"sft data report {configured}"):
            assert there in done.output, there
        assert sft(place, monkeypatch, "check", str(configured)).stdout == done.stdout, "found, and not made"
        found: dict[str, Any] = json.loads(sft(place, monkeypatch, "check", str(configured), "--json").stdout)
        assert [one["name"] for one in found["sources"]] == ["first", "second"]
        assert found["manifest"]["rows_out"] == 13

    def test_a_use_that_is_forbidden_is_a_wrong_configuration(self, configured: Path, place: Workspace,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
        done = sft(place, monkeypatch, "check", str(configured), "--set", "data.use=commercial")
        assert isinstance(done.exception, ConfigError) or done.exit_code == 2
        assert not (place.root / "stages").exists()

    def test_rows_that_would_stop_a_run_are_told_last(self, configured: Path, place: Workspace,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
        done = sft(place, monkeypatch, "check", str(configured), "--set", "data.max_rejected_share=0.01")
        assert done.exit_code == 1 or isinstance(done.exception, DataError)
        assert "The way of the rows" in done.output

    @pytest.mark.parametrize(("given", "said"), [
        (["--flaws", "--changes"], "several views"), (["--flaws", "--packed"], "no tokens"),
        (["--why", "email"], "say which")])
    def test_options_that_do_not_go_together(self, given: list[str], said: str, configured: Path, place: Workspace,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
        done = sft(place, monkeypatch, "show", str(configured), *given)
        assert said in f"{done.output} {done.exception}"
        assert done.exit_code != 0
