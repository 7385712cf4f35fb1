"""Trains the embedded base checkpoint again and holds it against the committed one."""

from __future__ import annotations

from pathlib import Path

from sft_core.errors import ModelError


def rebuild(folder: Path) -> list[str]:
    """Train from the committed recipe into `folder` (about ten minutes on one core) and say what came out.

    Raises:
        ModelError: the weights are not bit for bit those that are committed.
    """
    from sft_core.tiny.build import build

    report = build(folder)
    size, seen = f"{report.parameters / 1e6:.2f} M parameters", f"{report.tokens / 1e6:.2f} M tokens"
    lines = [
        f"{folder}: {size}, {seen} in {report.seconds:.0f} s",
        *(f"sha256 {name} {digest}" for name, digest in report.sha256.items()),
    ]
    if not report.same_bits():
        raise ModelError("\n".join(lines) + "\nthese are not the committed weights: another class of machine or "
                         "another version of torch makes other bits (RECIPE.json in the folder names both); its scores "
                         "tell whether the checkpoint is as good")
    return [*lines, "the same bits as the committed checkpoint"]
