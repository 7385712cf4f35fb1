"""The stage of synthesis, and the folder in which what it made is kept under its name: `.sft/synth/NAME`.

The stage hangs on all that decides what comes out. What was generated is kept apart from it, by what was asked: another
threshold selects anew and generates nothing.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from eval_suites.backends.endpoint import Usage
from eval_suites.scorers.custom import scorer_version
from eval_suites.suites.suite import named_suites
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EvalSection
from sft_core.config.synth import RejectSection, SynthConfig
from sft_core.config.synth_file import LoadedSynth
from sft_core.data.sources import source_digest
from sft_core.errors import ConfigError, DataError
from sft_core.stage import file_digest, fingerprint, read_json, write_json, write_text
from sft_core.synth.rows import word, write_rows
from sft_core.versions import code_version
from tasks.inputs import suite_stamp
from tasks.stages import Done, Workspace, once
from tasks.synth.generator import identity
from tasks.synth.licence import licence_of_rows
from tasks.synth.prompts import own_suite

CODE = ("sft_core.synth.self_instruct", "eval_suites.verifiers.named", "eval_suites.verifiers.sampling",
        "eval_suites.backends.sampled", "eval_suites.asking.questions", "sft_core.data.intake",
        "sft_core.data.curate.contamination")
ROWS, RANDOM, LEFT, REPORT, MANIFEST = "rows.jsonl", "random.jsonl", "left.jsonl", "report.json", "manifest.json"
SAY = {
    "unanswered": "look whether the server of generator.endpoint answers", "empty": "look what the generator is asked",
    "cut": "raise generator.max_new_tokens", "failed": "look what reject.verify asks of an answer",
    "alike": "raise max_similarity", "contaminated": "decontaminate.suites names what they are of",
    "too_short": "lower self_instruct.least_words", "too_long": "raise self_instruct.most_words",
    "no_instance": "take a generator that follows the form of the prompts, or raise generator.max_new_tokens"}
"""What to do about most of what was left out for a reason."""
SOURCE = "source.yaml"
"""In the folder of its name: what `data` of an experiment says to train on it."""


def made_once(config: SynthConfig, place: Workspace, make: Callable[[Path], Mapping[str, object]]) -> Done:
    """The stage of this configuration, found or made now."""
    asked = config.model_dump(mode="json", exclude={"name", "tracking", "generator"})
    stamp = fingerprint("synth", code_version(*CODE), asked, identity(config.generator, place), _inputs(config, place))
    return once(place.stages.open("synth", stamp), make)


def _inputs(config: SynthConfig, place: Workspace) -> list[object]:
    """What is read, by content."""
    used = config.decontaminate
    suites = EvalSection(suites=used.suites, include_path=used.include_path, data_path=used.data_path) \
        if used.suites else None
    stamps = [suite_stamp(one, suites, place.mirror) for one in named_suites(used.suites).values()] if suites else []
    if config.self_instruct:
        return [stamps, [_digest(file, "self_instruct.seeds") for file in config.self_instruct.seeds]]
    assert config.reject is not None
    return [stamps, *_of_reject(config, config.reject, place)]


def _of_reject(config: SynthConfig, section: RejectSection, place: Workspace) -> Iterable[object]:
    from sft_core.model.load import model_identity

    verify = section.verify
    yield [source_digest(one, scratch=place.scratch, mirror=place.mirror) for one in section.prompts.sources]
    if section.prompts.items:
        yield _digest(section.prompts.items, "reject.prompts.items")
    if chosen := own_suite(config):
        yield suite_stamp(chosen, EvalSection(suites=(str(section.prompts.suite),)), place.mirror)
        yield file_digest(chosen.items_file)
    if verify.json_schema:
        yield _digest(verify.json_schema.file, "reject.verify.json_schema.file")
    if verify.scorer and verify.scorer.function:
        yield scorer_version(verify.scorer.function, None)
    if verify.reward:
        yield model_identity(ModelSection(path=verify.reward.model), place.mirror)["digest"]


def _digest(file: str, field: str) -> str:
    try:
        return file_digest(Path(file).expanduser())
    except OSError as error:
        raise ConfigError(f"{field}: {file} cannot be read: {error}; a relative path begins in {Path.cwd()}"
                          ) from error


def write_made(out: Path, rows: list[dict[str, Any]], left: Iterable[Mapping[str, Any]], said: Sequence[str]) -> None:
    """The rows, and what was left out with its reasons.

    Args:
        said: what it came to, for a person.

    Raises:
        DataError: there is no row.
    """
    gone = list(left)
    write_rows(out / LEFT, gone)
    if not rows:
        raise DataError(f"no row came of it: {'; '.join(said)}. Left out: {'; '.join(_reasons(gone)) or 'nothing'}. "
                        f"{out / LEFT} says of each why, with what the generator said")
    write_rows(out / ROWS, rows)


def _reasons(gone: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """How many were left out for which reason, most first, and what can be done."""
    for why, number in Counter(str(one["why"]) for one in gone).most_common():
        advice = SAY.get(why.partition(":")[0])
        yield f"{number:,} as {why}{f' ({advice})' if advice else ''}"


def write_manifest(out: Path, config: SynthConfig, name: str, usage: Mapping[str, Usage], prompt_version: str,
                   report: Mapping[str, Any]) -> dict[str, Any]:
    """Where the rows come from: what the ids in their provenance stand for, and what a source says of itself; the
    report beside it, and both as the stage's result.

    Args:
        name: of the generator.
        usage: of servers in this process, by what they were asked for.
    """
    section = config.generator
    sampling = section.model_dump(mode="json", include={"temperature", "top_p", "max_new_tokens"}) | {
        "seed": config.seed}
    model = section.endpoint.model if section.endpoint else section.model.path if section.model else ""
    used = {what: one._asdict() for what, one in usage.items()}
    manifest = {
        "generators": {word(name): name}, "prompt_version": prompt_version,
        "sampling": sampling, "sha256": {file: file_digest(out / file) for file in (ROWS, RANDOM)
                                         if (out / file).exists()},
        "config": config.model_dump(mode="json", exclude={"name", "tracking"}), "usage": used,
        "provenance": {"kind": "synthetic", "generator": model, "prompt_version": prompt_version,
                       "sampling": sampling, "date": datetime.date.today().isoformat()}}
    write_json(out / MANIFEST, manifest)
    write_json(out / REPORT, dict(report))
    return {"report": dict(report), "usage": used, "generator": name}


def publish(loaded: LoadedSynth, done: Done, place: Workspace) -> Path:
    """Copy what a stage made to its name's folder, with the configuration and what trains on it; its path."""
    folder = place.root / "synth" / loaded.config.name
    for file in sorted(done.folder.iterdir()):
        if file.suffix in (".json", ".jsonl"):
            write_text(folder / file.name, file.read_text(encoding="utf-8"))
    provenance = read_json(folder / MANIFEST, "provenance")["provenance"]
    source = {"path": str((folder / ROWS).resolve()), **provenance}
    licence, note = licence_of_rows(loaded.config, place.mirror)
    source |= {"licence": licence} if licence else {}
    write_text(folder / SOURCE, note + yaml.safe_dump({"sources": [source]}, sort_keys=False, allow_unicode=True))
    write_text(folder / "config.yaml", loaded.text)
    return folder
