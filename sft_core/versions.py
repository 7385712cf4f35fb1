"""The code that something hangs on: all modules that its entry points reach, and the data files beside them.

Nothing is listed by hand. From an entry point all imports are followed, late ones included, within the two packages
that compute (`sft_core` and `eval_suites`; the rest only arranges what they do). Data files of whatever kind belong to
a package: to the one whose folder is the nearest above them. They move with every module of that package, and so lie in
the package that reads them. A package's map, an `__init__.py` that is a docstring alone, is no code.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPUTING = ("sft_core", "eval_suites")
BODIES = ("body", "orelse", "handlers", "finalbody", "cases")


@cache
def code_version(*entries: str, beyond: tuple[str, ...] = ()) -> str:
    """16 hex digits over all that these modules reach, as it was when this process first asked.

    Args:
        entries: dotted names of modules.
        beyond: packages and modules that are not followed: what is asked about does not hang on them.
    """
    return digest(code_files(*entries, beyond=beyond))


def digest(files: Iterable[Path]) -> str:
    """16 hex digits of SHA-256 over names and contents."""
    found = hashlib.sha256()
    for file in files:
        found.update(file.name.encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:16]


def code_files(*entries: str, beyond: tuple[str, ...] = (), root: Path = ROOT) -> list[Path]:
    """The modules that these reach, and the data files of their packages, sorted; arguments as for `code_version`.

    Raises:
        ValueError: there is no module of that name.
    """
    if missing := [name for name in entries if _module(name, root) is None]:
        raise ValueError(f"{root} holds no module {missing[0]}; entry points are dotted names within {COMPUTING}")
    found: dict[Path, _Code] = {}
    ahead = list(entries)
    while ahead:
        name = ahead.pop()
        file = _module(name, root)
        if file is None or file in found or any(f"{name}.".startswith(f"{one}.") for one in beyond):
            continue
        found[file] = _read(file.read_bytes())
        above = name.rpartition(".")[0]  # Python runs the packages above a module too
        ahead += [*found[file].imported, *([above] if above else [])]
    code = [file for file, read in found.items() if not read.is_map]
    return sorted({*code, *(one for folder in {file.parent for file in found} for one in _data(folder))})


def imported(source: bytes) -> list[str]:
    """What a module imports, late imports included; names of relative imports begin with their dots.

    Raises:
        SyntaxError, ValueError: it is no Python.
    """
    return _read(source).imported


def is_module(name: str) -> bool:
    """Whether a dotted name is one of the modules that can be followed."""
    return _module(name, ROOT) is not None


def _module(name: str, root: Path) -> Path | None:
    """The file of a module of ours; None for others' and for a name within a module."""
    if name.split(".")[0] not in COMPUTING:
        return None
    place = root.joinpath(*name.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def _data(folder: Path) -> Iterator[Path]:
    """The data files of a package: all but its modules; in folders that are no packages also code, which is loaded by
    name."""
    for entry in folder.iterdir():
        if entry.name.startswith((".", "__pycache__")):
            continue
        if entry.is_file() and (entry.suffix != ".py" or not (folder / "__init__.py").exists()):
            yield entry
        elif entry.is_dir() and not (entry / "__init__.py").exists():
            yield from _data(entry)


class _Code:
    """What stands in a module as far as it matters here."""

    def __init__(self, tree: ast.Module) -> None:
        self.imported = [name for node in _statements(tree.body) for name in _names(node)]
        self.is_map = all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in tree.body)


@lru_cache(maxsize=1024)
def _read(source: bytes) -> _Code:
    """By content: most stages reach the same modules, and an edit is another content."""
    return _Code(ast.parse(source))


def _statements(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """All statements, those within functions, branches and the like too. `ast.walk` visits expressions as well, eight
    times slower."""
    for node in body:
        yield node
        for inner in BODIES:
            yield from _statements(getattr(node, inner, []))


def _names(node: ast.AST) -> list[str]:
    """What an import may load; `from a import b` names a module of a package or something within a module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        whole = "." * node.level + (node.module or "")
        return [whole, *(f"{whole}{'.' if node.module else ''}{alias.name}" for alias in node.names)]
    return []
