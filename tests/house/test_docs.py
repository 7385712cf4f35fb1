"""README and docs hold together: every page is in the site, every link, picture and file that they name is there."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")), *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED = re.compile(r"`((?:tests|bench|docs|flows|tasks|infra|sft_core|eval_suites)/[\w./-]+\.\w+)`")


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.S)


def missing(file: Path, text: str) -> list[str]:
    """Links, pictures and files that a page names and that are not there."""
    said = without_code(text)
    links = [link.partition("#")[0] for link in LINK.findall(re.sub(r"`[^`\n]*`", "", said)) if "://" not in link]
    return [link for link in links if link and not (file.parent / link).exists()] + [
        name for name in NAMED.findall(said) if "NAME" not in name and not (ROOT / name).exists()]


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_a_page_names_is_there(file: Path) -> None:
    assert not missing(file, file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", ["see [this](nosuch.md)", "![picture](nosuch.svg)", "in `tests/core/nosuch.py`"])
def test_the_rule_itself_can_fail(text: str) -> None:
    assert missing(ROOT / "README.md", text)
    assert not missing(ROOT / "README.md", f"```\n{text}\n```")


def files_of(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        for inside in entry.values():
            yield from files_of(inside) if isinstance(inside, list) else [inside]


def test_every_page_has_its_place_in_the_site() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    assert sorted(files_of(nav)) == sorted(str(file.relative_to(DOCS)) for file in DOCS.rglob("*.md"))


def test_the_readme_is_two_screens() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 110
    assert (DOCS / "verdict.png").stat().st_size < 100_000
