"""The page of every field of a configuration."""

from __future__ import annotations

from collections.abc import Iterator

from flows.reference.examples import UNITS, example
from flows.reference.models import Field, fields

HEAD = """# Configuration: every field

A configuration is one YAML file. `sft config check FILE` tells all that is wrong with one, with its lines, and what it
names and is not here (a hub id that cannot be looked up without a network is said to be unchecked); `sft config schema`
prints its JSON Schema for editors. `--set section.field=value` overrides a field, typed and checked like the file;
`a.0.b` reaches into lists. Names (`name`, `tracking.experiment`, `tracking.registered_model`, `search.study`) become
folders and files: letters of any language, digits, `-`, `_`, and inside dots and spaces, no slash.

Relative paths (`model.path`, `sources[].path`, `template.path`, suites, folders of `eval` and `data.mirror`) are
relative to the directory in which the command is given, not to the file. The `config.yaml` of a run holds them whole,
so that the run can be looked at, used and continued from every directory.

`[]` in a name stands for an entry of a list, `FIELD` for the dotted name of a searched field. Examples are what may
follow a command such as `sft run flows/configs/demo.yaml` (of `search`: `sft sweep flows/configs/sweep.yaml`); other
fields in them are what the one needs. `make reference` made this page.
"""


def configuration_page() -> str:
    """Markdown: a heading for each section, and below it for each of its fields."""
    return HEAD + "".join(f"\n{line}\n" for field in fields() for line in _told(field))


def _told(field: Field) -> Iterator[str]:
    top = "." not in field.name
    yield f"{'##' if top and field.section else '###'} `{field.name}`"
    facts = [] if field.section and field.kind == "section" else [field.kind]
    facts += [f"unit: {UNITS[field.name]}"] if field.numeric else []
    facts += ["**required**" if field.default == "required" else f"default: {_quoted(field.default)}"]
    yield " · ".join(facts) if field.kind != "section" or field.default == "none" else facts[-1]
    yield " ".join(field.says.split())
    if field.name == "train.replay.sources":
        yield "Entries are as those of [`data.sources`](#datasources)."
    if shown := example(field):
        yield f"Example: `{' '.join('--set ' + _argument(one) for one in shown)}`"


def _quoted(text: str) -> str:
    return text if text in ("none", "as its fields say") else f"`{text}`"


def _argument(text: str) -> str:
    """As a shell takes it."""
    return text if not set(text) & set(" <>|*{}[]$&;'\"") else '"' + text + '"'
