"""What MLflow shows of a run besides its numbers: a note that says how it ended, and the data it used."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from eval_suites.results import SuiteResult
from eval_suites.verdict.verdict import Verdict
from infra.naming import Input, digest_of, in_markdown
from sft_core.stage import fingerprint
from tasks.experiment import Experiment
from tasks.facts import sortable
from tasks.pages.data import DataTold
from tasks.stages import Done

CURATED, PREPARED = "curated data", "prepared data"
TOTALS = ("train_examples", "train_tokens", "train_trained_tokens", "validation_examples", "replay_tokens")
COUNTS = ("read", "kept", "held_out", "examples", "tokens", "trained_tokens")
"""Of the ledger what MLflow shows of the prepared data: of all, and of each source."""
FILES = ("report.html", "data.html", "config.yaml", "lineage.json", "ledger.json", "items")
"""Artifacts that the note leads to."""
TOLD = ("suite", "base", "tuned", "tax / win", "interval", "items", "outcome")


def note(run: Experiment, trained: Done, verdict: Verdict, data: DataTold) -> str:
    """Markdown: the verdict's sentence, the suites, what was trained on what, and what comes next."""
    rows = [{"interval" if "interval" in head else head: text for head, text in row.items()} for row in verdict.rows()]
    table = [f"| {' | '.join(TOLD)} |", f"|{' --- |' * len(TOLD)}",
             *(f"| {' | '.join(in_markdown(row[head]) for head in TOLD)} |" for row in rows)]
    told, tags = trained.result, sortable(run.config)
    how = (f"{told['steps']:,} steps over {sum(told['used'].values()):,} training examples, "
           f"{told['trained_tokens']:,} tokens trained in {told['seconds']:,.0f} s; learning rate {tags['sft.lr']}, "
           f"λ {tags['sft.lambda']}, β {tags['sft.beta']}")
    promotion = f"`sft promote {run.name}` makes it the champion, " if verdict.gate == "pass" else ""
    return "\n".join([
        f"**Gate: {verdict.gate}.** {in_markdown(verdict.reason)}", "", *table, "",
        f"Base {in_markdown(run.config.model.path)}, {run.config.train.method}: {how}.", "",
        f"Curated: {data.rows_out:,} of {data.rows_in:,} rows. {in_markdown(data.ended)}", "",
        f"`sft show {run.name}` has all of it in the terminal, {promotion}"
        f"`sft run {run.folder / 'config.yaml'}` makes it again."])


def inputs(prepared: Done, results: Mapping[str, SuiteResult], data: DataTold, held_out: Collection[str] = ()
           ) -> Iterator[Input]:
    """The curated data as a whole, by the fingerprint of its manifest; what was made of it in this run; sources of
    training and of replay, and suites, each with the digest of what it was.

    MLflow keeps one data set for each name and digest, with what the first run said of it. So an input says only what
    hangs on its digest: a source nothing of what a run made of it, which stands under `PREPARED`.

    Args:
        held_out: names of the sources whose rows become items of a suite.
    """
    yield Input(CURATED, data.fingerprint, "training", "data/manifest.json",
                {"rows_in": data.rows_in, "rows_out": data.rows_out})
    ledger: Mapping[str, Any] = prepared.result["ledger"]
    came_to = {key: ledger[key] for key in TOTALS} | {
        use: {one["source"]: {key: one[key] for key in COUNTS} for one in ledger[use]} for use in ("sources", "replay")}
    yield Input(PREPARED, fingerprint(came_to), "training", "ledger.json", came_to)
    digests = {(one["name"], one["use"]): one for one in prepared.result["sources"]}
    for use, counted in (("train", ledger["sources"]), ("replay", ledger["replay"])):
        for one in counted:
            source = digests[one["source"], use]
            context = "held_out" if one["source"] in held_out else "training" if use == "train" else use
            yield Input(one["source"], digest_of(source["files"])[:16], context, source["path"],
                        {"files": len(source["files"])})
    for name, result in results.items():
        yield Input(name, f"{result.protocol_hash}-{result.n}", "evaluation", name, {"items": result.n})


def derived(ledger: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, object]:
    """What follows from the configuration, the data and the machine, as parameters beside the fields: counts of the
    whole training, so that runs can be set against each other by what they were given."""
    pace = training["pace"]
    return {f"derived.{name}": value for name, value in {
        "examples": ledger["train_examples"], "examples_used": sum(training["used"].values()),
        "held_out": ledger["validation_examples"], "steps": training["steps"],
        "tokens": training["tokens"], "trained_tokens": training["trained_tokens"],
        "replay_tokens": training["replay_tokens"], "stopped_early": training["stopped_early"],
        "precision": str(pace["precision"]).removeprefix("torch."), "processes": pace["processes"],
        "machine": pace["machine"], "saved_as": training["stored"]["form"]}.items()}
