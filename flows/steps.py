"""What an experiment is made of, as three calls for a notebook: `prepare`, `train`, `evaluate`.

The flow sft-experiment takes the same steps, and each is kept in the workspace: what a notebook has made, `sft run`
of the same configuration finds, and records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flows import forms
from flows.place import workspace
from sft_core.config.experiment import ExperimentConfig
from tasks.evaluate import base_subject, floors, tuned_subject
from tasks.evaluate import evaluate as ask
from tasks.interpolate import interpolate
from tasks.judge import judged
from tasks.measure import Against
from tasks.needs import check_needs, run_lacks
from tasks.parity import certificate
from tasks.prepare import prepare as prepare_data
from tasks.stages import Done, Workspace
from tasks.train import train as train_model
from tasks.verdict import Compared, Floor, Known, Results, Verdict, compared, foresee, reach_verdict


class Data(NamedTuple):
    """Prepared data of a configuration."""

    config: ExperimentConfig
    place: Workspace
    done: Done

    @property
    def ledger(self) -> list[dict[str, Any]]:
        """A row per source: what was read, left out (by reason), kept, and how many of its tokens are trained."""
        return list(self.done.result["rows"])


class Model(NamedTuple):
    """A trained model."""

    data: Data
    done: Done

    @property
    def folder(self) -> Path:
        """Weights, tokenizer, chat template, generation config and card, as transformers loads them."""
        return self.done.folder / "model"

    @property
    def report(self) -> Mapping[str, Any]:
        """How training went: `steps`, `tokens`, `trained_tokens`, `seconds`, losses in nats per token (`final`,
        `validation`), and what was `stored`."""
        return self.done.result


class Base(NamedTuple):
    """What the base scores, and how far it differs from itself."""

    results: Results
    floors: Mapping[str, Floor]


class Judged(NamedTuple):
    """The results of both models, those of judged suites among them, and what they prove."""

    verdict: Verdict
    base: Results
    tuned: Results

    @property
    def rows(self) -> list[dict[str, str]]:
        """A row per suite as the terminal shows it, e.g. for a data frame."""
        return self.verdict.rows()

    @property
    def compared(self) -> Compared:
        """With all tables of the report, and the items that changed."""
        return compared(self.verdict, self.base, self.tuned)

    def write_page(self, file: Path) -> Path:
        """Write the page of the comparison."""
        from tasks.pages.report import write_report_page

        write_report_page(file, "tuned against base", self.compared)
        return file

    def _repr_html_(self) -> str:
        """What a notebook shows of it."""
        from tasks.pages.shell import rendered

        return rendered("verdict.html.jinja", gate=self.verdict.gate, reason=self.verdict.reason, rows=self.rows)


def prepare(configuration: str | Path = "demo", overrides: Mapping[str, Any] | None = None) -> Data:
    """Prepare the training data of a configuration, or find it prepared.

    Args:
        configuration: name of a shipped one, or path of a YAML file.
        overrides: fields that are set otherwise than there, e.g. `{"train.epochs": 2}`.

    Raises:
        ConfigError: with every problem of the configuration, or with what it needs and is not here.
        DataError, TemplateError, ModelError, EvalError: an input cannot be used.
    """
    config = forms.loaded(str(configuration), dict(overrides or {})).config
    place = workspace(config)
    check_needs(run_lacks(config, place))
    return Data(config, place, prepare_data(config, place))


def train(data: Data, follow: Callable[[Path], None] = lambda _: None) -> Model:
    """Train on prepared data, or find the model trained; a training that was killed continues.

    Args:
        data: from `prepare`.
        follow: told the path of `events.jsonl` every few seconds; must not raise.

    Raises:
        Interrupted: Ctrl-C; the state was saved, and the same call continues.
        TrainingError: see `sft_core.train.trainer.train`.
    """
    config, place, prepared = data
    trained = train_model(config, prepared, place, follow)
    return Model(data, interpolate(config, prepared, trained, place))


def evaluate(model: Model, base: Base | None = None, out: Path | None = None) -> Judged:
    """Ask the model and its base the configured suites, and reach the verdict.

    Args:
        model: from `train`.
        base: from `measure_base`; None: asked now, or found.
        out: folder for what a judge said; None: beside other scratch files of the workspace.

    Raises:
        EvalError: a suite cannot be asked, or protocols differ.
    """
    (config, place, prepared), trained = model.data, model.done
    known = base or measure_base(model.data)
    tuned = ask(tuned_subject(config, trained), config.eval, place, against=Against(known.results, config.gate))
    kept = out or place.scratch / f"judged-{trained.fingerprint}"
    before, after = judged(known.results, tuned, config.eval.judge, place, kept)
    found = certificate(trained, config, place)
    looked = prepared.result["contaminated"] if config.data.decontaminate.looks else None
    verdict = reach_verdict(before, after, config.gate, Known(looked, known.floors, (found.check(),) if found else ()))
    return Judged(verdict, before, after)


def measure_base(data: Data) -> Base:
    """Ask the base the configured suites, and log what a comparison with it can find: also before any training.

    Raises:
        EvalError: a suite cannot be asked.
    """
    config, place, prepared = data
    subject = base_subject(config, prepared)
    results = ask(subject, config.eval, place)
    floor = floors(subject, results, config.eval, place)
    foresee(results, config.gate, config.eval.looks, place)
    return Base(results, floor)
