"""A child process of the bench: one engine. `python -m bench.train_child SPEC…` (JSON)."""

from __future__ import annotations

import sys

from bench.train_spec import Spec, Turns


def main() -> None:
    """Serve turns until the parent says quit. Several configurations of our own engine may share one process."""
    specs = [Spec.from_json(text) for text in sys.argv[1:]]
    turns = Turns()
    if specs[0].engine == "trl":
        from bench.train_trl import run

        run(specs[0], turns)
        return
    from bench.train_native import from_spec

    steppers = [from_spec(spec) for spec in specs]
    while turns.wait():
        made = steppers[turns.which]()
        turns.stop_clock()
        turns.done(made)


if __name__ == "__main__":
    main()
