"""A model file from elsewhere, made a folder that everything here can read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def import_told(file: Path, folder: Path, of: str | None, licence: str | None) -> Iterator[str]:
    """Import a GGUF file and say, line by line, what it has become and how to go on.

    Raises:
        ModelError: see `sft_core.model.gguf.import_gguf`.
    """
    from sft_core.model.gguf import import_gguf

    made = import_gguf(file, folder, of, licence)
    yield f"{made.folder}: {made.architecture}, {made.parameters / 1e6:,.1f} M parameters, in bfloat16"
    yield from (f"note: {remark}" for remark in made.remarks())
    yield f"next: sft doctor flows/configs/alpaca.yaml --set model.path={made.folder}"
