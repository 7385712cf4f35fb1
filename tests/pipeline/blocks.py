"""The blocks of README and docs, and what can be said of a command without running it."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import yaml
from sybil import Document
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer

from flows.reference.commands import commands
from flows.reference.environment import VARIABLES
from sft_core.config.file import examine
from sft_core.config.synth_file import load_synth
from sft_core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if page.name not in ("LOG.md", "CHANGELOG.md")]
CONFIGS = ROOT / "flows" / "configs"
COMMANDS = commands()
MARK = re.compile(r"<!-- (run|not run: [^>]+|file: \S+) -->\n$")
INLINE = re.compile(r"(?<!`)`(sft [a-z][^`]*)`(?!`)")
FOREIGN = {"dask", "hf", "lm-eval", "pip", "vllm", "exec"}
"""Programs that are not ours, and not looked into: a reader has, or wants, their own manual."""
OTHERS = {"AWS_ACCESS_KEY_ID", "PIP_INDEX_URL"}
"""Variables that other programs read."""


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    mark: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """All fenced blocks of a page with the comment before each that says what becomes of it."""
    text = page.read_text(encoding="utf-8")
    lexer = FencedCodeBlockLexer(language=r"\w*", mapping={"language": "language", "source": "source"})
    for region in lexer(Document(text, str(page))):
        mark = MARK.search(text[:region.start])
        yield Block(page, text.count("\n", 0, region.start) + 1, region.lexemes["language"], mark[1] if mark else "",
                    region.lexemes["source"])


class Wrong(AssertionError):
    """A command that is not one."""


def lines(text: str) -> list[list[str]]:
    """The words of every command of a block: continued lines joined, comments left out, files written aside."""
    text = re.sub(r"^cat > (\S+) <<'END'\n.*?^END\n", "", text, flags=re.S | re.M).replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def heredocs(text: str) -> dict[str, str]:
    """File → text, of every file that a block writes."""
    return dict(re.findall(r"^cat > (\S+) <<'END'\n(.*?)^END\n", text, flags=re.S | re.M))


def check(words: Sequence[str]) -> None:
    """Raises Wrong where a command could not be given so."""
    words = list(words)
    exported = words[0] == "export"
    words = words[exported:]
    while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0], re.S):
        if (name := words.pop(0).partition("=")[0]) not in VARIABLES.keys() | OTHERS | {"PATH"}:
            raise Wrong(f"{name} is no variable that is told in docs/reference/environment.md")
    if not words or words[0] in FOREIGN:
        return
    program, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    known = {"sft": check_sft, "make": check_make, "prefect": check_prefect, "python": check_python, "eval": check_eval}
    if program not in known:
        raise Wrong(f"{program} is a command that nobody has looked at")
    known[program](rest)


def check_eval(rest: Sequence[str]) -> None:
    if list(rest) != ["$(sft up --shell)"]:
        raise Wrong(f"eval {rest}")


def check_python(rest: Sequence[str]) -> None:
    if rest[0] == "-m" and rest[1].split(".")[0] in ("bench", "flows", "infra", "tests") and not (
            importlib.util.find_spec(rest[1])):
        raise Wrong(f"there is no module {rest[1]}")


def check_make(rest: Sequence[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    if wrong := [one for one in rest if "=" not in one and one not in targets]:
        raise Wrong(f"make has no {wrong}")


def check_prefect(rest: Sequence[str]) -> None:
    deployments = [one["name"] for one in yaml.safe_load((ROOT / "infra/prefect.yaml").read_text())["deployments"]]
    if list(rest[:2]) != ["deployment", "run"] or rest[2] not in deployments:
        raise Wrong(f"prefect {' '.join(rest)}")


def check_sft(rest: Sequence[str], *, whole: bool = True) -> None:
    """`whole`: arguments that are needed have to be there; a sentence may name an option alone."""
    name = next((name for name in (" ".join(rest[:2]), rest[0]) if name in COMMANDS), None)
    if name is None:
        raise Wrong(f"sft has no command {rest[0]}")
    arguments = [one for one in COMMANDS[name].params if one.param_type_name == "argument"]
    options = {word: one for one in COMMANDS[name].params if one.param_type_name == "option"
               for word in (*one.opts, *one.secondary_opts)}
    free, said = taken_apart(name, COMMANDS[name], options, rest[len(name.split()):], whole=whole)
    if len(free) > len(arguments) and not any(one.nargs == -1 or one.multiple for one in arguments):
        raise Wrong(f"sft {name} takes {len(arguments)} arguments, not {free}")
    if whole and (lacks := [one.opts[0] for one in options.values() if one.required and not {*one.opts} & said]):
        raise Wrong(f"sft {name} needs {lacks}")
    if whole and len(free) < sum(one.required for one in arguments):
        raise Wrong(f"sft {name} needs more than {free}")
    settings = [word for flag, word in zip(rest, rest[1:], strict=False) if flag == "--set"]
    if name == "synth":
        check_synth(free[:1], settings)
    else:
        check_settings(free[:1], settings)


def taken_apart(name: str, command: Any, options: Mapping[str, Any], rest: Sequence[str], *, whole: bool
                ) -> tuple[list[str], set[str]]:
    """The arguments and the options that are given to a command, the values of options looked at."""
    hints = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    given, free, said = list(rest), list[str](), set[str]()
    while given:
        word = given.pop(0)
        if not word.startswith("-"):
            free.append(word)
            continue
        flag, equals, value = word.partition("=")
        if flag not in options:
            raise Wrong(f"sft {name} has no option {flag}")
        if not options[flag].is_flag and not equals:
            if whole and not given:
                raise Wrong(f"sft {name} {flag} takes a value")
            value = given.pop(0) if given else ""
        said.add(flag)
        check_value(f"sft {name} {flag}", value, hints[options[flag].name])
    return free, said


def check_value(what: str, value: str, hint: Any) -> None:
    kinds = [hint]
    while kinds and not (get_origin(kinds[0]) is Literal or not get_args(kinds[0])):
        first = kinds.pop(0)
        kinds += get_args(first)[:1] if hasattr(first, "__metadata__") else get_args(first)
    literal = [word for one in kinds if get_origin(one) is Literal for word in get_args(one)]
    placeholder = value.isupper() or not value
    if literal and value not in literal and not placeholder:
        raise Wrong(f"{what} takes {literal}, not {value}")
    if int in kinds and not (value.isdigit() or placeholder):
        raise Wrong(f"{what} takes a whole number, not {value}")


def check_synth(config: Sequence[str], settings: Sequence[str]) -> None:
    """Of a shipped configuration of synthesis, by its name or its path."""
    shipped = CONFIGS / "synth" / f"{Path(config[0]).stem}.yaml" if config else None
    if settings and shipped is not None and shipped.is_file():
        try:
            load_synth(shipped, settings)
        except ConfigError as error:
            raise Wrong(str(error)) from error


def check_settings(config: Sequence[str], settings: Sequence[str]) -> None:
    """Of a configuration that is shipped, or of any, held against the demo."""
    if config and config[0].startswith("flows/configs/") and not (ROOT / config[0]).exists():
        raise Wrong(f"there is no {config[0]}")
    known = bool(config) and (ROOT / config[0]).is_file()
    shipped = ROOT / config[0] if known else CONFIGS / "demo.yaml"
    held = [*settings] if known else ["gate={}", *settings]
    if settings and "…" not in "".join(settings) and (problems := examine(shipped, held).problems):
        raise Wrong("; ".join(problems))

