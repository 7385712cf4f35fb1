"""The page of the metrics that MLflow shows."""

from __future__ import annotations

from flows.reference.tables import table
from tasks.metrics import METRICS, Described

HEAD = """# Metrics

What MLflow shows of a run. MLflow makes a section of what stands before the last slash of a name, and steps of training
are optimiser steps. Everything else of a verdict is in `verdict.json` and the report. `make reference` made this page.
"""
TRAINING = (
    Described("train/loss", "nats per trained token", "what is minimised: SFT + λ · LM + β · KL, over one step"),
    Described("train/sft, train/replay", "nats per token", "its terms SFT and LM, each a mean over the step"),
    Described("train/kl", "nats per position", "its term KL to the base"),
    Described("train/lr", "", "the learning rate of the step"),
    Described("train/grad_norm", "L2 norm", "of the gradient, before it is clipped"),
    Described("train/tokens, train/trained_tokens, train/replay_tokens", "tokens", "so far; trained ones are targets"),
    Described("train/tokens_per_s", "tokens per second", "of this step, replay included"),
    Described("validation/loss", "nats per trained token", "on the conversations held out (`data.validation_share`)"),
    Described("validation/probe.SUITE", "share from 0 to 1", "of `train.probe.suites`, on the way"),
    Described("validation/saved.loss, validation/saved.trained, validation/saved.base", "nats per trained token",
              "the saved folder read back, the trained weights, the base: on the same held-out rows"),
    Described("validation/saved.merge_gap, validation/saved.quantized_gap", "nats",
              "what merging adapters, and leaving the base in 4 bits, has changed at most"),
    Described("system/cpu_utilization_percentage, system/system_memory_usage_percentage", "percent",
              "of the machine, every 10 s of training at the step that was taken then"),
    Described("system/system_memory_usage_megabytes, system/process_memory_usage_megabytes", "megabytes",
              "of the machine, and of the process that trains"),
    Described("system/gpu_memory_usage_percentage, system/gpu_memory_usage_megabytes, system/gpu_tensors_megabytes",
              "percent, megabytes", "of its GPU: in use, and the most that tensors have taken so far"),
)
SWEEPS = (
    Described("alignment, tax", "points of 100", "a trial's objectives"),
    Described("search/FIELD", "that of the field", "a trial's searched numbers"),
    Described("rung/alignment, rung/tax", "points of 100", "at a look, at the step of the look"),
    Described("best/alignment, best/tax", "points of 100", "of the sweep's run: the best within all limits"),
)
NIGHTS = (
    Described("ALIAS/SUITE/score, ALIAS/SUITE/score_low, ALIAS/SUITE/score_high", "share from 0 to 1",
              "tonight's score with its interval"),
    Described("ALIAS/SUITE/stored", "share from 0 to 1", "the score that it is held against"),
    Described("ALIAS/SUITE/limit_low, ALIAS/SUITE/limit_high", "share from 0 to 1",
              "what a score must leave to be proved changed: control limits"),
    Described("ALIAS/SUITE/loss, ALIAS/SUITE/loss_low, ALIAS/SUITE/loss_high", "points of 100",
              "against the stored results"),
    Described("ALIAS/SUITE/base_loss", "points of 100", "what the base has lost meanwhile"),
    Described("ALIAS/SUITE/own_loss, ALIAS/SUITE/own_low", "points of 100", "the model's loss less the base's"),
    Described("ALIAS/SUITE/flip_rate, ALIAS/SUITE/coverage", "share from 0 to 1",
              "items that changed; items with a score"),
)
SYNTHESIS = (
    Described("synth/prompts, synth/answers, synth/kept, synth/prompts_with_kept", "count",
              "rejection sampling: what was asked, how often it was answered, what is kept and of how many prompts"),
    Described("synth/pass_1, synth/pass_n, synth/baseline", "share from 0 to 1",
              "pass@1 and pass@n (n: `reject.samples`), and the share that passes of as many answers at random"),
    Described("synth/tokens", "tokens", "of all answers"),
    Described("synth/rows, synth/unanswered", "count", "Self-Instruct: rows that came in, requests without an answer"),
    Described("rounds/rows, rounds/gain", "count", "new rows of a round, in all and for each instruction proposed; the "
              "step is the round"),
    Described("rounds/repetition, rounds/novelty", "share from 0 to 1", "mean highest ROUGE-L of a round's proposals "
              "to the pool; share of the word triples of its rows that are new"),
)
GROUPS = {"Training": TRAINING, "Verdict": METRICS, "Sweeps": SWEEPS, "Nights": NIGHTS, "Synthesis": SYNTHESIS}


def metrics_page() -> str:
    """Markdown: a table for each group."""
    tables = (f"\n## {title}\n\n{table(('metric', 'unit', 'what it is'), map(_row, listed))}"
              for title, listed in GROUPS.items())
    return HEAD + "".join(tables)


def _row(one: Described) -> tuple[str, str, str]:
    return ", ".join(f"`{name}`" for name in one.pattern.split(", ")), one.unit or "–", one.says
