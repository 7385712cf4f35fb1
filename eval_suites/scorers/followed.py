"""What a suite's own scorer hangs on: its file and all modules that this imports, as they lie on the disk now.

Imports are followed, late ones included, into files beside the scorer and whatever else Python would import. Modules of
this platform count as they do for its stages; installed libraries by their version; the standard library, and data
files that the code reads, not at all.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from sft_core.stage import fingerprint
from sft_core.versions import COMPUTING, code_version, digest, imported, is_module

OURS = (*COMPUTING, "infra", "tasks", "flows")
INSTALLED = {"site-packages", "dist-packages"}
STANDARD = Path(sysconfig.get_paths()["stdlib"])


class Followed(NamedTuple):
    """What was found: the scorer's file and the modules of its author, modules of this platform, and libraries."""

    files: tuple[Path, ...]
    ours: tuple[str, ...]
    libraries: tuple[str, ...]

    @property
    def version(self) -> str:
        """16 hex digits that move with all of it."""
        return fingerprint(digest(self.files), code_version(*self.ours) if self.ours else "",
                           [(name, _version(name)) for name in self.libraries])

    def forget(self) -> None:
        """Let Python read the author's modules anew when they are imported next: a process that lives on has them as
        they were, and Python takes a compiled file for the source's as long as size and second of change are the same.
        """
        files = {file for file in self.files if not INSTALLED & set(file.parts) and STANDARD not in file.parents}
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__dict__", {}).get("__file__")
            if file and Path(file) in files:
                del sys.modules[name]
        for one in files:
            with suppress(OSError):
                Path(importlib.util.cache_from_source(str(one))).unlink()
        importlib.invalidate_caches()


def follow(entry: Path) -> Followed:
    """All that a module reaches; without running any of it.

    Raises:
        OSError: the module cannot be read.
    """
    above = [folder / "__init__.py" for folder in entry.parents]  # which Python runs too
    return _reached([entry, *takewhile(Path.is_file, above)], entry.parent)


def follow_name(name: str, folder: Path) -> Followed:
    """All that a module reaches which is named by its import path, and lies in a folder or where Python finds it."""
    found = _files(name, folder / "__init__.py", folder)
    return Followed((), (), (name.split(".")[0],)) if found is None else _reached(found, folder)


def _reached(ahead: list[Path], beside: Path) -> Followed:
    files, ours, libraries = set[Path](), set[str](), set[str]()
    while ahead:
        file = ahead.pop()
        if file in files:
            continue
        files.add(file)
        for name in _names(file):
            top = name.split(".")[0]
            if top in OURS:
                ours |= {name} if is_module(name) else set()
                continue
            found = _files(name, file, beside)
            if found is None:
                libraries.add(top)
            else:
                ahead += found
    return Followed(tuple(sorted(files)), tuple(sorted(ours)), tuple(sorted(libraries)))


def _names(file: Path) -> list[str]:
    try:
        return imported(file.read_bytes())
    except (SyntaxError, ValueError):  # told by Python, if it is ever imported
        return []


def _files(name: str, importer: Path, beside: Path) -> list[Path] | None:
    """The files that an import of this name runs; None of an installed library."""
    plain = name.lstrip(".")
    parts = plain.split(".") if plain else []
    if up := len(name) - len(plain):
        return list(_within([importer.parents[up - 1]], parts)) if up <= len(importer.parents) else []
    if (found := list(_within([beside], parts))) or parts[0] in sys.stdlib_module_names:
        return found
    try:
        spec = importlib.util.find_spec(parts[0])
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    places = [Path(one) for one in spec.submodule_search_locations or [spec.origin or ""]]
    if any(INSTALLED & set(place.parts) for place in places):
        return None
    return list(_within([place.parent for place in places], parts))


def _within(folders: Sequence[Path], parts: Sequence[str]) -> Iterator[Path]:
    """The modules on the way to a dotted name; its last part may be something within a module."""
    for part in parts:
        kinds = [place for folder in folders for place in (folder / part / "__init__.py", folder / f"{part}.py")]
        file = next((place for place in kinds if place.is_file()), None)
        if file is None:  # a folder without `__init__.py`, or no module
            folders = [folder / part for folder in folders]
            continue
        yield file
        folders = [file.parent] if file.name == "__init__.py" else []


@cache
def _version(library: str) -> str:
    """Of the package that brings a library; 'none' where nobody says which that is."""
    try:
        return version(library)
    except PackageNotFoundError:
        names = packages_distributions().get(library, [])
        return version(names[0]) if names else "none"
