"""What can be run: one YAML per suite in this folder or wherever you keep it, and `lm:TASK` for any task of lm-eval.

A suite of your own is `./my_suite.yaml`, its items beside it, and at most one scoring function (`scorer`). It is called
`my_suite`, or as its `name:` says.

`NAME@chat` and `NAME@completion` are the same lm-eval suite under the other protocol.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import PrivateAttr, ValidationError, model_validator
from pydantic_core import ErrorDetails

from sft_core.config.evaluate import SUFFIXES, suite_name
from sft_core.config.reading import Key, parse
from sft_core.config.section import Positive, Section
from sft_core.errors import ConfigError, EvalError

ROOM = Path(__file__).parent
LM_PREFIX = "lm:"


class Suite(Section):
    """A named evaluation: what is asked, how, and which number counts."""

    name: str
    """Name in results, verdicts, gates, metrics and files; by default that of the file without its ending."""
    about: str
    """What it measures and where its items come from, in a sentence or two."""
    kind: Literal["capability", "alignment"]
    """Capability suites give the tax (base − tuned), alignment suites the win (tuned − base)."""
    engine: Literal["lm_eval", "generate", "likelihood"]
    """`lm_eval`: tasks of lm-eval; `generate`: items answered greedily through the chat template; `likelihood`: nats
    per byte of texts, or of answers behind their prompts."""
    scale: Literal["share", "log"] = "share"
    """`share`: scores in [0, 1]; `log`: minus nats per byte, so that 1 point is 1 % of perplexity per byte."""
    tasks: tuple[str, ...] = ()
    """lm-eval tasks or groups."""
    task_folder: str | None = None
    """Folder inside lm-eval's own tasks that holds them; without it all of lm-eval's YAMLs are read (10 s)."""
    metric: str | None = None
    """lm-eval metric and filter that count, e.g. `exact_match,strict-match`; by default the task's first."""
    num_fewshot: int | None = None
    """Worked examples before each question; by default what the task says."""
    chat: bool = False
    """Ask through the chat template: lm-eval's examples as turns, likelihood of answers behind their conversations.
    Items of the engine `generate` always are."""
    system: str | None = None
    """System prompt in front of every question."""
    items: str | None = None
    """File of own items in `rows/` (for a suite given by its path: beside its YAML), or behind a `reader` a file or
    folder in `eval.data_path`."""
    scorer: str | None = None
    """Scores all items in place of the scorer that their kind names: `package.module:function`, or `file.py:function`
    beside the YAML, a pure function of (expect, answer) that returns a `Score`."""
    published_items: Positive | None = None
    """Items of the published test set, for listings: counting them would load it from the hub."""
    cluster: str = "cluster"
    """Column of lm-eval's documents that items share which are not independent."""
    published_clusters: Positive | None = None
    """Groups of items that are alike in the published test set, for the detectable effects of listings."""
    reader: str | None = None
    """Reads a published benchmark's own files into items (`readers/`); without one `items` holds items."""
    variants: tuple[str, ...] = ()
    """Perturbations (`perturb.py`): every item is asked clean and in each of them."""
    max_new_tokens: Positive | None = None
    """Longest answer to own items, in tokens; lm-eval tasks say it themselves."""
    _folder: Path | None = PrivateAttr(default=None)  # of a suite given by its path; no part of the protocol

    @model_validator(mode="after")
    def _complete(self) -> Suite:
        if self.engine == "lm_eval" and not self.tasks:
            raise ValueError("engine lm_eval needs tasks")
        if self.engine == "generate" and not (self.items and self.max_new_tokens):
            raise ValueError("engine generate needs items and max_new_tokens")
        if self.engine == "likelihood" and not (self.items and self.scale == "log"):
            raise ValueError("engine likelihood needs items and scale: log")
        if self.engine != "generate" and (self.scorer or self.variants):
            raise ValueError(f"scorer and variants are for engine generate, not {self.engine}")
        return self

    def asked(self) -> dict[str, Any]:
        """All fields that decide what is asked and how it is scored."""
        return self.model_dump(mode="json", exclude={"about", "published_items", "published_clusters"})

    @property
    def through_template(self) -> bool:
        """Asked through the chat template, whose text is then part of the protocol."""
        return self.chat or self.engine == "generate"

    @property
    def folder(self) -> Path | None:
        """Folder of a suite that was given by its path; None for a shipped one."""
        return self._folder

    @property
    def items_file(self) -> Path:
        """Where the own items lie."""
        return (self._folder or ROOM / "rows") / str(self.items)

    def items_at(self, data_path: Path | None) -> Path:
        """Where the items lie, own or a published benchmark's.

        Raises:
            EvalError: it is a published benchmark's suite, and there is no `eval.data_path`.
        """
        if self.reader is None:
            return self.items_file
        if data_path is None:
            raise EvalError(f"suite {self.name} reads {self.items} as its authors ship it; set eval.data_path "
                            "(--data-path of `sft eval`) to the folder that holds it")
        return data_path / str(self.items)


@cache
def load_suites() -> dict[str, Suite]:
    """All shipped suites by name.

    Raises:
        EvalError: a suite file is not valid.
    """
    return {file.stem: _load(file, file.stem) for file in sorted(ROOM.glob("*.yaml"))}


def _load(file: Path, name: str) -> Suite:
    lines: dict[Key, int] = {}
    try:
        data, lines = parse(file.read_text(encoding="utf-8"), str(file))
        if not isinstance(data, dict):
            raise EvalError(f"{file} is not a valid suite: it holds {type(data).__name__}, not keys with values")
        return Suite(**{"name": name, **data})
    except OSError as error:
        raise EvalError(f"the suite {file} cannot be read: {error}; a relative path begins in {Path.cwd()}") from error
    except ValidationError as error:
        raise EvalError(f"{file} is not a valid suite: "
                        + "; ".join(_problem(detail, lines) for detail in error.errors())) from error
    except (TypeError, UnicodeDecodeError, ConfigError) as error:
        raise EvalError(f"{file} is not a valid suite: {error}") from error


def _problem(detail: ErrorDetails, lines: Mapping[Key, int]) -> str:
    where = ".".join(map(str, detail["loc"]))
    at = f"line {lines[detail['loc'][:1]]}: " if detail["loc"][:1] in lines else ""
    if detail["type"] == "extra_forbidden":
        return f"{at}there is no key {where!r}; keys are {', '.join(sorted(Suite.model_fields))}"
    if detail["type"] == "missing":
        return f"{where} is missing"
    return f"{at}{where}: {detail['msg']}, and it is {detail['input']!r}" if where else detail["msg"]


def _by_path(reference: str) -> Suite:
    """A suite of the user's own."""
    file = Path(reference)
    chosen = _load(file, suite_name(reference))
    chosen._folder = file.resolve().parent
    return chosen


def named_suites(references: Iterable[str]) -> dict[str, Suite]:
    """The suites by their names, from names and paths as a configuration gives them.

    Raises:
        EvalError: there is no such suite, or it is not valid.
    """
    return {one.name: one for one in map(suite, references)}


def suite(name: str) -> Suite:
    """The suite of that name; `lm:TASK` is a task of lm-eval (or of `eval.include_path`) as a capability suite, and a
    name that ends in .yaml is the path of a suite.

    Raises:
        EvalError: there is no such suite, says the nearest name; or an unknown protocol behind the @.
    """
    if name.endswith(SUFFIXES):
        return _by_path(name)
    plain, _, asked = name.partition("@")
    if asked:
        return _under(suite(plain), asked)
    if name.startswith(LM_PREFIX):
        task = name.removeprefix(LM_PREFIX)
        return Suite(name=name, about=f"lm-eval's {task}", kind="capability", engine="lm_eval", tasks=(task,))
    known = load_suites()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise EvalError(f"there is no suite {name!r}; {hint}Suites are {', '.join(known)}, and lm:TASK for any task of "
                        "lm-eval, and the path of a YAML of your own")
    return known[name]


def _under(chosen: Suite, asked: str) -> Suite:
    """The suite under another protocol, by its full name."""
    if chosen.engine != "lm_eval" or asked not in ("chat", "completion"):
        raise EvalError(f"{chosen.name}@{asked}: the protocols are @chat and @completion, of lm-eval suites only")
    return chosen.model_copy(update={"name": f"{chosen.name}@{asked}", "chat": asked == "chat"})
