"""`sft parity`: do training, evaluation, template and server see the same tokens?"""

from __future__ import annotations

from pathlib import Path

from flows import console
from flows.place import look, workspace
from sft_core.config.data import ModelSection
from tasks.mirror import asked_mirror
from tasks.parity import Serving, certificate_of, keep


def run_parity(model: ModelSection, template: str, serving: Serving, out: Path | None, mirror: Path | None) -> bool:
    """Print the certificate as one table, write it as JSON, and say whether it passed."""
    place = asked_mirror(workspace(), mirror)
    made = certificate_of(model, template, serving, place, look())
    console.table(f"Parity of {model.path}", made.table())
    console.lines(f"{'pass' if made.passed else 'FAIL'}: {made.why}")
    file = out or place.root / "parity.json"
    keep(made, model.path, serving, file)
    console.lines(f"written to {file}")
    return made.passed
