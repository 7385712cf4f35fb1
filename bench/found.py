"""The file that a bench's numbers go to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def write_found(file: Path | None, found: Mapping[str, object]) -> None:
    """Write the numbers as JSON; nothing where no file is named."""
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
