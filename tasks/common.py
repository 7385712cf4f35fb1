"""What the trials of a sweep have in common, made by one worker of all machines before the others need it.

On one machine the locks of stages see to that. Machines that share stages through a server (SFT_SHARE) have the study
in common, which says whose turn it is.
"""

from __future__ import annotations

import functools
import logging

from infra.children import Forked, last_line
from infra.study_contract import Study
from sft_core.config.experiment import ExperimentConfig
from sft_core.stage import fingerprint
from sft_core.stopping import sleep, stop_on_signals
from tasks.evaluate import base_subject, evaluate, floors
from tasks.inputs import replay_sources
from tasks.prepare import prepare
from tasks.stages import Workspace
from tasks.train import referenced
from tasks.trial import Place, waited_for

log = logging.getLogger("sft")
WAIT_S = 1.0
TRIES = 2
"""How often one worker makes it: a process may have been killed."""


def together(config: ExperimentConfig, study: Study, place: Place) -> None:
    """Wait for what a trial shares with others, or make it where that is this worker's turn, in a process of its own.

    What cannot be made is left to the trial, which says why. Does nothing where this machine shares no stages.
    """
    if place.home is None:
        return
    part, told = _part(config, place), False
    while (turn := study.lead(part)) is None:
        if not told:
            log.info("another worker makes what the trials have in common (data, the base's results); waiting")
        told = True
        study.renew()
        sleep(WAIT_S)
    if not turn:
        return
    output = place.folder / f"common-{part}.log"
    log.info("making what the trials have in common: %s", output)
    code = None
    for _ in range(TRIES):
        code = waited_for(Forked(functools.partial(_make, config, place.home), output, place.environment), study.renew)
        if code >= 0:
            break
    study.led(part, made=code == 0)
    if code:
        log.warning("what the trials have in common could not be made (exit code %s: %s; see %s)", code,
                    last_line(output), output)


def _part(config: ExperimentConfig, place: Place) -> str:
    """Names what trials of equal settings share: equal on all machines of one kind."""
    kl = config.train.kl
    asked = (kl.streams, config.train.lora.quantize) if kl.beta > 0 and kl.reference == "cache" else None
    return fingerprint(config.model, config.data, config.template, config.seed, config.eval, replay_sources(config),
                       asked, place.versions, bool(place.environment))


def _make(config: ExperimentConfig, home: Workspace) -> int:
    with stop_on_signals():
        make_common(config, home)
    return 0


def make_common(config: ExperimentConfig, home: Workspace) -> None:
    """Prepared data, results and floors of the base, and what it says for the KL term: found, brought, or made now."""
    prepared = prepare.fn(config, home)
    subject = base_subject(config, prepared)
    floors.fn(subject, evaluate.fn(subject, config.eval, home), config.eval, home)
    referenced(config, prepared, home)
