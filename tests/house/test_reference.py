"""The reference pages are what the code says, and what they show is taken."""

import re
import tomllib
from pathlib import Path

import pytest

from flows.reference import commands, environment
from flows.reference.examples import EXAMPLES, UNITS, example
from flows.reference.models import Field, fields, fields_of_synthesis
from flows.reference.pages import FOLDER, pages
from sft_core.config.file import examine

ROOT = Path(__file__).resolve().parents[2]
FIELDS = {field.name: field for field in fields()}


def test_pages_are_current() -> None:
    made = pages()
    assert {file.name for file in FOLDER.glob("*.md")} == set(made)
    stale = [name for name, text in made.items() if (FOLDER / name).read_text(encoding="utf-8") != text]
    assert not stale, f"{', '.join(stale)}: run `make reference` (.venv/bin/python -m flows.reference) and commit it"


def test_every_field_has_words_and_every_number_a_unit() -> None:
    assert len(FIELDS) > 150
    assert not [field.name for field in FIELDS.values() if not field.says]
    assert not [field.name for field in FIELDS.values() if field.numeric and field.name not in UNITS]
    assert not (UNITS.keys() | EXAMPLES.keys()) - FIELDS.keys()


@pytest.mark.parametrize("field", [one for one in FIELDS.values() if not one.section or example(one)],
                         ids=lambda field: field.name)
def test_the_example_of_a_field_is_taken_and_changes_something(field: Field) -> None:
    shipped = ROOT / "flows/configs" / ("sweep.yaml" if field.name.startswith("search") else "demo.yaml")
    shown = example(field)
    found = examine(shipped, shown)
    assert not found.problems
    without = examine(shipped, shown[:-1])
    assert found.config != without.config or without.problems


def test_the_rule_itself_can_fail() -> None:
    nothing = Field("train.nosuch", "", "text", "none", False, None, ())
    assert example(nothing) == ()
    assert examine(ROOT / "flows/configs/demo.yaml", ["train.nosuch=1"]).problems


def test_every_field_of_synthesis_has_words_and_none_is_told_twice() -> None:
    found = [*fields_of_synthesis()]
    assert len(found) > 50
    assert not [field.name for field in found if not field.says]
    assert not {field.name for field in found} & {"generator.model.path", "reject.prompts.sources[].path"}


def test_every_command_has_an_example() -> None:
    assert commands.EXAMPLES.keys() == commands.commands().keys()
    assert all(f"{said} ".startswith(f"sft {name} ") for name, said in commands.EXAMPLES.items())


def test_every_variable_and_extra_is_told() -> None:
    read = set(re.findall(r'(?:given\(|environ\.get\(|secret\()"([A-Z_]+)"',
                          (ROOT / "infra/settings.py").read_text(encoding="utf-8")))
    assert {"SFT_HOME", "SFT_MIRROR", "SFT_ARTIFACTS"} <= read
    assert not read - environment.VARIABLES.keys()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert environment.EXTRAS.keys() == project["optional-dependencies"].keys()
