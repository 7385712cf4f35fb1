"""The page of the workspace's files."""

from __future__ import annotations

from flows.reference.tables import table
from infra.layout import LAYOUT

HEAD = f"""# Files of the workspace

All that is written is in one folder, `.sft` or SFT_HOME (layout {LAYOUT}). Stages and runs are the truth; what other
programs show is made of them. `sft clean` says what takes room and who needs it. `make reference` made this page.
"""
FILES = {
    "stages/STAGE/FINGERPRINT/": "one finished or begun piece of work; the fingerprint covers configuration, inputs "
                                 "and code. STAGE is curate, prepare, train, evaluate, floors, power, …",
    "stages/*/*/done.json": "the mark of a finished stage, with its fingerprint, seconds and result",
    "stages/*/*/lock": "held while it is made",
    "stages/*/*/used": "shared by all who need it; when it was used last",
    "stages/read/*/out/": "one source: its conversations as shards, and the rows that are none",
    "stages/normalise/*/out/": "the same with texts put right, and what changed",
    "stages/facts/*/out/": "what was measured of the conversations of a source: one kind of facts, shard by shard",
    "stages/recall/*/": "how many changed evaluation items are found in this data",
    "stages/curate/*/out/": "the conversations that stay, what goes and why, duplicates, flaws, the way of the rows",
    "stages/prepare/*/out/": "examples as Parquet, rejected rows with their reasons, ledger",
    "stages/train/*/out/events.jsonl": "every step: losses, rate, tokens; what the tracker follows",
    "stages/train/*/out/checkpoints/": "what a killed training continues from; `best-N.safetensors` of early stopping",
    "stages/train/*/out/model/": "the tuned model: weights, tokenizer, chat template, generation config, card",
    "stages/train/*/out/adapter/": "with `method: lora` the adapter as peft loads it",
    "stages/evaluate/*/out/": "one suite of one model: items as Parquet, numbers as JSON",
    "runs/NAME/config.yaml": "the configuration of a run, overrides included: `sft run` takes it",
    "runs/NAME/run.json": "its id in MLflow",
    "runs/NAME/lock": "held by who works on it",
    "runs/NAME/ledger.json": "counts of everything read, dropped, cut and trained",
    "runs/NAME/contaminated.json": "items of the suites that were found in the data (`data.decontaminate: report`)",
    "runs/NAME/training.json": "how training went: losses, validations, what was stored and how",
    "runs/NAME/evaluation/base/ and tuned/": "`SUITE.parquet` one row per item, `SUITE.json` numbers and protocol",
    "runs/NAME/evaluation/beside.json": "the A/A floor, checks and what else stands beside the scores",
    "runs/NAME/verdict.json": "every number of the verdict and of the gate",
    "runs/NAME/report.html": "the page of the run; loads nothing",
    "runs/NAME/data.html": "the page of its data: the way of the rows, with examples of what was taken out or put "
                           "right",
    "runs/NAME/data/": "`manifest.json`: where the data comes from, with hashes, licences, steps and counts; "
                       "`README.md`, the same as a data card",
    "runs/NAME/report-items/": "items that do not fit into the page, which loads them on a click",
    "runs/NAME/tax.png": "wins and tax with intervals",
    "runs/NAME/lineage.json": "digests of sources, data, configuration, base, model, results; code and libraries",
    "runs/NAME/summary.json": "the end in short; there when the run is whole",
    "runs/NAME/model": "a link to its model folder",
    "runs/NAME/events.jsonl": "a link to the events of its training, from its first steps on",
    "runs/NAME/followed.json": "how far the tracker has followed the events",
    "runs/NAME/settled.json": "what the run was asked and made, so that the same command is told within seconds",
    "synth/NAME/": "what `sft synth` made: `rows.jsonl` (a source), `random.jsonl` (as many answers at random), "
                   "`left.jsonl` (all else, with its reason), `report.json`, `manifest.json`, `config.yaml`, "
                   "`source.yaml` (what an experiment says to train on it)",
    "sweeps/STUDY/": "the page `sweep.html`, front as JSON, pictures; logs of trials and workers",
    "trends/MODEL/": "the course of the nights of a registered model as page and picture",
    "index.html": "the list of all pages, as `sft open` made it",
    "studies/": "journals of sweeps, where no database is configured",
    "nights/": "answers of the last 14 nights; nights whose tracker was away",
    "cache/": "kept answers and judgements, downloads: made again when needed",
    "scratch/": "files that can be made again at any time",
    "judged/": "judgements of open-ended answers",
    "registry/": "models fetched from the registry",
    "parity.json": "the last certificate of `sft parity`",
    "story.json": "the last `sft story`",
    "mlflow.db and mlartifacts/": "MLflow without a server, and with that of `sft up`",
    "prefect/": "Prefect's database and state",
    "platform/": "processes, ports, logs of `sft up`; `state.json` may hold secrets and is its owner's alone (0600)",
    "deployments.yaml": "what was deployed from here",
    "alive/": "who is at work, and what it has open for the next command to close if it dies",
    "locks/": "so that two commands do not spoil each other's work",
    "layout": "the number of this layout; a newer one is refused",
}
"""Path in the workspace → what it is."""


def files_page() -> str:
    """Markdown: one table."""
    rows = [(" and ".join(f"`{one}`" for one in path.split(" and ")), said) for path, said in FILES.items()]
    return f"{HEAD}\n{table(('path', 'what it is'), rows)}"
