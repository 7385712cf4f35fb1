"""What MLflow shows of a run besides its numbers: a note that says how it ended, and the data it used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from eval_suites.results import SuiteResult
from eval_suites.verdict.verdict import Verdict
from infra.naming import Input, digest_of, in_markdown
from tasks.experiment import Experiment
from tasks.facts import sortable
from tasks.pages.data import DataTold
from tasks.stages import Done

CURATED = "curated data"
FILES = ("report.html", "data.html", "config.yaml", "lineage.json", "ledger.json", "items")
"""Artifacts that the note leads to."""
TOLD = ("suite", "base", "tuned", "tax / win", "interval", "items", "outcome")


def note(run: Experiment, prepared: Done, trained: Done, verdict: Verdict) -> str:
    """Markdown: the verdict's sentence, the suites, what was trained on what, and what comes next."""
    rows = [{"interval" if "interval" in head else head: text for head, text in row.items()} for row in verdict.rows()]
    table = [f"| {' | '.join(TOLD)} |", f"|{' --- |' * len(TOLD)}",
             *(f"| {' | '.join(in_markdown(row[head]) for head in TOLD)} |" for row in rows)]
    told, tags = trained.result, sortable(run.config)
    how = (f"{told['steps']:,} steps over {prepared.result['ledger']['train_examples']:,} examples, "
           f"{told['trained_tokens']:,} tokens trained in {told['seconds']:,.0f} s; learning rate {tags['sft.lr']}, "
           f"λ {tags['sft.lambda']}, β {tags['sft.beta']}")
    promotion = f"`sft promote {run.name}` makes it the champion, " if verdict.gate == "pass" else ""
    return "\n".join([
        f"**Gate: {verdict.gate}.** {in_markdown(verdict.reason)}", "", *table, "",
        f"Base {in_markdown(run.config.model.path)}, {run.config.train.method}: {how}.", "",
        f"`sft show {run.name}` has all of it in the terminal, {promotion}"
        f"`sft run {run.folder / 'config.yaml'}` makes it again."])


def inputs(prepared: Done, results: Mapping[str, SuiteResult], data: DataTold) -> Iterator[Input]:
    """The curated data as a whole, by the fingerprint of its manifest; sources of training and of replay, and suites,
    each with the digest of what it was."""
    yield Input(CURATED, data.fingerprint, "training", "data/manifest.json",
                {"rows_in": data.rows_in, "rows_out": data.rows_out})
    digests = {(one["name"], one["use"]): one for one in prepared.result["sources"]}
    ledger: Mapping[str, Any] = prepared.result["ledger"]
    for use, counted in (("train", ledger["sources"]), ("replay", ledger["replay"])):
        for one in counted:
            source = digests[one["source"], use]
            how_much = {key: one[key] for key in ("read", "kept", "examples", "tokens", "trained_tokens")}
            yield Input(one["source"], digest_of(source["files"])[:16], "training" if use == "train" else use,
                        source["path"], how_much)
    for name, result in results.items():
        yield Input(name, result.protocol_hash, "evaluation", name, {"items": result.n})


def derived(ledger: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, object]:
    """What follows from the configuration, the data and the machine, as parameters beside the fields: counts of the
    whole training, so that runs can be set against each other by what they were given."""
    pace = training["pace"]
    return {f"derived.{name}": value for name, value in {
        "examples": ledger["train_examples"], "held_out": ledger["validation_examples"], "steps": training["steps"],
        "tokens": training["tokens"], "trained_tokens": training["trained_tokens"],
        "replay_tokens": training["replay_tokens"], "stopped_early": training["stopped_early"],
        "precision": str(pace["precision"]).removeprefix("torch."), "processes": pace["processes"],
        "machine": pace["machine"], "saved_as": training["stored"]["form"]}.items()}
