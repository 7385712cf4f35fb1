"""What a run is, what changed and what it came out of, in words: for its page, the terminal and MLflow. Light: none of
this needs a library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from infra.naming import digest_of
from sft_core.config.experiment import ExperimentConfig
from sft_core.stage import fingerprint

if TYPE_CHECKING:  # it brings Arrow
    from eval_suites.results import SuiteResult

LINEAGE = "lineage.json"
"""In the folder of a run: what its model came out of, with every hash."""
WELL_BELOW = 0.95
"""A held-out loss on the way that is at most this share of the saved model's is told."""


class Number(NamedTuple):
    """One number of what changed."""

    says: str
    value: str
    how: str


class Count(NamedTuple):
    """Items of a suite: whose score fell, whose rose, and how many have one on both sides."""

    lost: int
    gained: int
    pairs: int


def sortable(config: ExperimentConfig) -> dict[str, str]:
    """Tags that are columns in a list of runs: what was trained, and how."""
    train, path = config.train, config.model.path
    base = Path(path).name if Path(path).is_absolute() else path
    return {"sft.base": base, "sft.method": train.method, "sft.lambda": f"{train.replay.lambda_:g}",
            "sft.beta": f"{train.kl.beta:g}", "sft.lr": f"{train.optim.lr:g}", "sft.epochs": f"{train.epochs:g}"}


def described(config: ExperimentConfig) -> Iterator[tuple[str, str]]:
    """What is trained, and how."""
    tags, train = sortable(config), config.train
    yield "base", config.model.path
    epochs = f"{tags['sft.epochs']} epoch{'s' * (train.epochs != 1)}"
    yield "method", f"{train.method}, learning rate {tags['sft.lr']}, {epochs}"
    terms = ["SFT", *([f"{tags['sft.lambda']} · LM on replay"] if train.replay.lambda_ else []),
             *([f"{tags['sft.beta']} · KL to the base"] if train.kl.beta else [])]
    yield "objective", " + ".join(terms)


def carried_out(training: Mapping[str, Any], made_with: Mapping[str, Any] | None, recorded_s: float
                ) -> Iterator[tuple[str, str]]:
    """What came of it: the report of the training, the code it was made with, when it was recorded."""
    code = made_with or {}
    replay = f", and {training['replay_tokens']:,} of replay" if training["replay_tokens"] else ""
    yield "trained", (f"{training['steps']:,} steps, {training['trained_tokens']:,} of {training['tokens']:,} tokens "
                      f"trained{replay}")
    yield "recorded", datetime.fromtimestamp(recorded_s).astimezone().strftime("%Y-%m-%d %H:%M %Z")
    edits = "" if code.get("clean", True) else ", with edits"
    yield "code", f"commit {str(code.get('commit') or 'not known')[:10]}{edits}"


def changed(training: Mapping[str, Any], counts: Sequence[Count], base: Mapping[str, SuiteResult],
            tuned: Mapping[str, SuiteResult]) -> Iterator[Number]:
    """What changed, in at most three numbers: loss, scores of items, length of answers; those that are known.

    Args:
        training: the report of the training.
        counts: of each suite.
        base, tuned: results by suite.
    """
    stored = training["stored"]
    if stored.get("base") is not None and stored.get("loss") is not None:
        yield Number("loss on held-out examples", f"{stored['base']:.3g} → {stored['loss']:.3g}",
                     f"nats per trained token, base → the saved model{_lower(training['validation'], stored['loss'])}")
    yield Number("items whose score changed",
                 f"{sum(one.gained for one in counts):,} gained, {sum(one.lost for one in counts):,} lost",
                 f"of {sum(one.pairs for one in counts):,} with a score on both sides, all suites together")
    before, after = (_lengths(side) for side in (base, tuned))
    if before and after:
        many = f"{len(before):,}" if len(before) == len(after) else f"{len(before):,} and {len(after):,}"
        yield Number("length of an answer", f"{median(before):,.0f} → {median(after):,.0f}",
                     f"characters, median of the {many} answers that the models wrote themselves")


def _lower(validation: Sequence[tuple[int, float]], saved: float) -> str:
    """Where the loss was well below that of the saved model on the way."""
    step, loss = min(validation, key=lambda one: one[1], default=(0, saved))
    return f"; it was lowest at step {step:,}: {loss:.3g}" if loss <= WELL_BELOW * saved else ""


def _lengths(results: Mapping[str, SuiteResult]) -> list[int]:
    """Characters of the answers that a model wrote: those of which it is known how they ended. Choices have none."""
    return [len(item.answer) for result in results.values() for item in result.items if "stopped" in item.metrics]


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def chain(lineage: Mapping[str, Any]) -> list[dict[str, object]]:
    """For a table: every part in the order in which the data walks, what it is, and the start of its hash."""
    made, gate = lineage["made_with"] or {}, lineage["gate"]
    rows = [(f"source {one['name']}", f"{one['use']}, {one['path']}, {_files(one['files'])}",
             digest_of(one["files"])) for one in lineage["sources"]]
    rows += [("prepared data", f"stage prepare/{lineage['prepared']['fingerprint']}", lineage["prepared"]["digest"]),
             ("configuration", "config.yaml", lineage["config"]["sha256"]),
             ("base model", lineage["base"]["path"], lineage["base"]["digest"]),
             ("model", _files(lineage['model']['files']), lineage["model"]["digest"])]
    rows += [(f"evaluation {label}", f"{name.removesuffix('.json')}, protocol {protocol}",
              lineage["evaluation"]["files"][f"{label}/{name}"])
             for label, found in lineage["evaluation"]["protocols"].items() for name, protocol in found.items()]
    edits = {True: "", False: ", with edits", None: ""}[made.get("clean")]
    rows += [("code", f"commit {made.get('commit') or 'not known'}{edits}", fingerprint(made.get("code"))),
             ("libraries", ", ".join(f"{name} {release}" for name, release in made.get("libraries", {}).items())
              or "not known", ""), ("gate", f"{gate['outcome']}: {gate['reason']}", "")]
    return [{"part": part, "what": what, "hash": digest[:16]} for part, what, digest in rows]


def _files(files: Mapping[str, str]) -> str:
    return f"{len(files)} file{'s' * (len(files) != 1)}"
