"""Fields of a search that are drawn beside certain values of others, and points: what is refused before trial 0."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.checking import looked_at
from infra.settings import read_settings
from sft_core.config.conditions import needed, ordered, point_of, settings
from sft_core.config.experiment import Range
from sft_core.config.file import load, override
from sft_core.errors import ConfigError
from tasks.trial import plan_of

ROOT = Path(__file__).resolve().parents[2]
METHOD, LORA = {"choices": ["full", "lora"]}, {"train.method": "lora"}
RANK = {"choices": [8, 16], "when": LORA}
NAME = {"choices": ["adamw", "muon"], "when": {"train.method": "full"}}


def written(folder: Path, space: dict[str, Any], *points: dict[str, Any]) -> Path:
    """A sweep over this space."""
    data = yaml.safe_load((ROOT / "flows/configs/sweep.yaml").read_text(encoding="utf-8"))
    data["search"] |= {"space": space, "points": list(points)}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return folder / "sweep.yaml"


def refused(file: Path, said: str) -> None:
    """That `sft config check` says this with its line, whatever else it looks for."""
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        looked_at(file, [], read_settings({"SFT_HOME": str(file.parent)}))
    assert f"{file}:" in str(caught.value)


@pytest.mark.parametrize(("space", "said"), [
    ({"train.lora.rank": RANK}, "train.method: 'lora' never occurs: train.method is 'full' here and not searched"),
    ({"train.lora.rank": RANK | {"when": {"train.method": "lorra"}}, "train.method": METHOD},
     "'lorra' never occurs: the choices are 'full', 'lora'"),
    ({"train.lora.rank": RANK | {"when": {"train.metod": "lora"}}, "train.method": METHOD},
     "there is no field train.metod; did you mean train.method?"),
    ({"train.lora.rank": RANK | {"when": {"train.epochs": 1}}, "train.epochs": {"low": 1, "high": 2}},
     "train.epochs is searched in an interval; list its values there"),
    ({"train.lora.rank": RANK | {"when": {"train.lora.alpha": 8}},
      "train.lora.alpha": {"choices": [8, 16], "when": {"train.lora.rank": 8}}},
     "train.lora.rank needs train.lora.alpha needs train.lora.rank"),
    ({"train.lora.rank": RANK | {"when": {"train.lora.rank": 8}}}, "train.lora.rank needs train.lora.rank; take"),
    ({"train.lora.alpha": RANK | {"when": {"train.lora.rank": 8}}, "train.method": METHOD,
      "train.lora.rank": RANK | {"when": {"train.method": "lorra"}}},
     "train.lora.rank.when.train.method: 'lorra' never occurs: the choices are 'full', 'lora'"),
    ({"train.rows_per_step": {"low": 2.5, "high": 4}}, "rows_per_step.low = 2.5: train.rows_per_step: Input should"),
    ({"train.lora.rank": RANK | {"when": LORA | {"train.optim.name": "muon"}}, "train.method": METHOD,
      "train.optim.name": NAME}, "no value of train.method meets this and what else it needs"),
    ({"train.lora.rank": RANK | {"choices": [8, -1]}, "train.method": METHOD},
     "choices.1 = -1 with train.method = 'lora': train.lora.rank: Input should be greater"),
    ({"train.lora.rank": RANK | {"when": {"train.method": "full"}}, "train.method": METHOD},
     "train.lora.rank: all trials would be the same, because train.method is full"),
    ({"train.optim.name": {"choices": ["adamw", "muon"], "when": LORA}, "train.method": METHOD},
     "choices.1 = 'muon' with train.method = 'lora': train: optim.name: muon needs method: full"),
    ({"train.rows_per_step": {"choices": [True, 8]}},
     "rows_per_step.choices.0 = True: train.rows_per_step: takes numbers, write 1"),
    ({"train.optim.lr": {"choices": [False, 1e-3]}}, "lr.choices.0 = False: train.optim.lr: takes numbers, write 0"),
    ({"train.lora.rank": {"choices": [8, 16], "log": True}},
     "log: true is for low and high; take it out beside choices"),
    ({"train.method": {"choices": ["lora"]}}, "one choice is none; add others, or take the field out of"),
    ({"train.optim.lr": {"choices": ["1e-3", 0.001]}}, "names 0.001 twice; take one out"),
])
def test_conditions_that_cannot_be_met(tmp_path: Path, space: dict[str, Any], said: str) -> None:
    refused(written(tmp_path, space), said)


@pytest.mark.parametrize(("point", "said"), [
    ({"train.method": "full", "train.lora.rank": 8}, "search.points.0.train.lora.rank: this is not drawn beside"),
    ({"train.lora.rank": 8}, "search.points.0.train.lora.rank: this is not drawn beside"),
    ({"train.lora.rank": True, **LORA}, "search.points.0: train.lora.rank: takes numbers, write 1 for True"),
    ({"train.method": "x"}, "search.points.0: train.method: Input should be 'full' or 'lora'"),
    ({"train.epochs": 2}, "search.points.0.train.epochs: this is not searched; add it to search.space"),
])
def test_points_that_are_none(tmp_path: Path, point: dict[str, Any], said: str) -> None:
    refused(written(tmp_path, {"train.lora.rank": RANK, "train.method": METHOD}, point), said)


def test_a_search_keeps_items_to_itself(tmp_path: Path) -> None:
    file = written(tmp_path, {"train.method": METHOD})
    for share in ("0.9", "0"):
        load(file, [f"search.confirm={share}"])
    with pytest.raises(ConfigError, match=r"confirm: Input should be less than or equal to 0.9 \(given: 0.999\)"):
        load(file, ["search.confirm=0.999"])


def test_what_a_field_needs_is_set_with_it_and_comes_before_it(tmp_path: Path) -> None:
    space = {"train.lora.alpha": {"choices": ["4e0", 8], "when": {"train.lora.rank": [8, 16], "seed": 0}},
             "train.lora.rank": RANK, "train.method": METHOD, "train.optim.lr": {"low": 1e-4, "high": 1e-3}}
    config = load(written(tmp_path, space, LORA, {**LORA, "train.lora.rank": "16", "train.lora.alpha": 8})).config
    assert config.search
    fields = config.search.space
    assert needed(fields, "train.lora.alpha") == {"train.method": ("lora",), "train.lora.rank": (8, 16), "seed": (0,)}
    assert list(settings(fields, "train.lora.alpha")) == [
        {"train.method": "lora", "train.lora.rank": rank} for rank in (8, 16)]
    assert ordered(fields) == ["train.method", "train.optim.lr", "train.lora.rank", "train.lora.alpha"]
    assert point_of(fields, override(config, LORA)) == {
        "train.method": "lora", "train.optim.lr": 0.001, "train.lora.rank": 8, "train.lora.alpha": 16.0}
    plan = plan_of(config, config.search)
    assert plan.space["train.lora.alpha"].when == {"train.lora.rank": (8, 16)}, "what is fixed always holds"
    assert plan.space["train.lora.alpha"].choices == (4.0, 8)
    assert plan.points == (
        {"train.method": "full", "train.optim.lr": 0.001},
        {"train.method": "lora", "train.optim.lr": 0.001, "train.lora.rank": 8, "train.lora.alpha": 16.0},
        {"train.method": "lora", "train.optim.lr": 0.001, "train.lora.rank": 16, "train.lora.alpha": 8.0})


def test_a_field_that_needs_itself() -> None:
    with pytest.raises(ValueError, match="a needs a; take one"):
        needed({"a": Range.model_validate({"choices": [1, 2], "when": {"a": 1}})}, "a")
