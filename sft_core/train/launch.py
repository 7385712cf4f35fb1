"""Training by several processes: `launch` is `train` with `section.processes` of them on each of `section.machines`.

It writes `job.json` beside the run's events and starts, as one child,

    python -m torch.distributed.run --nproc-per-node N … -m sft_core.train.launch --watched OUT/job.json

On further machines `sft join` starts the same (`machines.py`). The first process of the machine that has the run is
the first of all. It takes any number of processes and continues what another number of them has saved. (torchrun or
`accelerate launch --multi_gpu` by hand do as well; SIGTERM to torchrun saves and ends the run, and torchrun itself
gives the processes 30 s for it.) When it has finished, `launch` and so `sft run` with the same job take its result.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import distributed

from sft_core import errors
from sft_core.config.train import TrainSection
from sft_core.errors import Interrupted, ModelError, SftError, TrainingError
from sft_core.locks import exclusive
from sft_core.model.load import resolve_device
from sft_core.stage import read_json, write_text
from sft_core.stopping import StopRequest, stop_on_signals
from sft_core.train.events import EVENTS
from sft_core.train.finish import TrainReport, Until
from sft_core.train.inputs import TrainInputs
from sft_core.train.machines import Meeting, called, help_out
from sft_core.train.pulse import FAILED, leave_hard, tell_failure
from sft_core.train.trainer import train
from sft_core.train.workbench import join

JOB, REPORT, LOCK = "job.json", "report.json", "lock"
POLL_S = 0.1
LEFT_S = 60.0
"""For processes to find by themselves that another machine's are gone, which they do once they have met."""
log = logging.getLogger("sft")


@dataclass(frozen=True)
class Job:
    """The arguments of `train`, as they stand in job.json."""

    inputs: TrainInputs
    section: TrainSection
    out: Path
    until: Until | None = None


_JOB, _REPORT = TypeAdapter(Job), TypeAdapter(TrainReport)


def launch(inputs: TrainInputs, section: TrainSection, out: Path, *,
           on_events: Callable[[Path], None] | None = None, sync_every_s: float = 5.0,
           until: Until | None = None) -> TrainReport:
    """What `train` does with the same arguments, by `section.processes` processes on each machine.

    SIGTERM and Ctrl-C are passed on: the processes save and stop. They do the same when this process is killed.

    Raises:
        SftError: of the class and with the message that a process raised. TrainingError: one ended without a word.
    """
    _check_devices(inputs, section)
    wanted = _JOB.dump_json(Job(inputs, section, out, until), by_alias=True, indent=2).decode()
    job, report = out / JOB, out / REPORT
    if report.is_file() and job.is_file() and job.read_text(encoding="utf-8") == wanted:
        return _REPORT.validate_json(report.read_bytes())
    write_text(job, wanted)
    report.unlink(missing_ok=True)
    shutil.rmtree(out / FAILED, ignore_errors=True)
    with stop_on_signals() as stop, called(out, section, inputs.address) as meeting:
        child = _follow(meeting, stop, lambda: _tell(on_events, out / EVENTS), sync_every_s)
        if not report.is_file():
            raise _failure(out, "*" if section.machines > 1 else f"{child.pid}-*", child.returncode, stop)
    return _REPORT.validate_json(report.read_bytes())


def _tell(on_events: Callable[[Path], None] | None, file: Path) -> None:
    """The follower hears of events, not of a file that the processes have yet to begin."""
    if on_events and file.exists():
        on_events(file)


def main(arguments: Sequence[str] | None = None) -> int:
    """One of the processes, started by torchrun; returns its exit code."""
    parser = argparse.ArgumentParser("sft_core.train.launch",
                                     description="One process of a training run (see torchrun).")
    parser.add_argument("job", type=Path, help="the job.json of a run")
    parser.add_argument("--watched", action="store_true", help="save and stop when standard input ends")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    if given.watched:
        threading.Thread(target=_stop_with_parent, daemon=True).start()
    job = _JOB.validate_json(given.job.read_bytes())
    with ExitStack() as heeding:
        code = _run(job, heeding)
        if code is not None and distributed.is_initialized():
            leave_hard(code)
    if distributed.is_initialized():
        distributed.destroy_process_group()
    return code or 0


def _run(job: Job, heeding: ExitStack) -> int | None:
    """Train. Returns the exit code after an error, which is left in the run's folder.

    A signal ends the process at once as long as it looks for the others, where nothing would hear of it and nothing is
    to be saved. From then on it is heeded, also after an error: torchrun sends SIGTERM when another process has failed,
    and why is to be said first.
    """
    try:
        first = join(job.inputs.model).is_main_process
        heeding.enter_context(stop_on_signals())
        _train(job, first)
    except SftError as error:
        tell_failure(job.out, error)
        log.error("%s: %s", type(error).__name__, error)
        # All processes stop together, so torchrun need not end the others and report a failure.
        return 0 if isinstance(error, Interrupted) else error.exit_code
    except BaseException as error:  # noqa: BLE001 - the edge of a process, which must not end in destructors
        traceback.print_exc()
        tell_failure(job.out, TrainingError(f"a training process ended with {type(error).__name__}: {error}; see what "
                                            "it printed. Its last checkpoint is kept: start the run again, it "
                                            "continues from there"))
        return 1
    return None


def _train(job: Job, first: bool) -> None:
    log.setLevel(logging.INFO if first else logging.CRITICAL)
    if not first:
        train(job.inputs, job.section, job.out, until=job.until)
        return
    with _alone(job.out):
        report = train(job.inputs, job.section, job.out, until=job.until)
        write_text(job.out / REPORT, _REPORT.dump_json(report, indent=2).decode())


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Wait for processes of an earlier launch that still save; the lock goes with its process."""
    with exclusive(out / LOCK):
        yield


def _stop_with_parent() -> None:
    """Ask this process to save and stop when whoever holds the other end of standard input closes it or is gone."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _follow(meeting: Meeting, stop: StopRequest, tell: Callable[[], None], every_s: float
            ) -> subprocess.Popen[bytes]:
    """Run the child to its end, telling about events now and then; a signal closes its standard input. It is killed
    where another machine has left and it does not end by itself."""
    left_s = LEFT_S
    # In a session of its own, so that Ctrl-C reaches it in no other way and torchrun does not end it after 30 s.
    with subprocess.Popen(meeting.command, stdin=subprocess.PIPE, start_new_session=True) as child:
        told = time.monotonic()
        while child.poll() is None:
            time.sleep(POLL_S)
            if stop and child.stdin is not None:
                child.stdin.close()
                if not _has_children(child.pid):  # it waits for other machines, and nobody heeds its input
                    child.kill()
            if time.monotonic() - told >= every_s:
                tell()
                told = time.monotonic()
                left_s -= every_s * meeting.is_over()
            if left_s < 0:
                child.kill()
    tell()
    return child


def _has_children(pid: int) -> bool:
    return any(file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children"))


def help_machines(folders: Callable[[], Sequence[Path]]) -> None:
    """Give this machine to the runs that call for it, one after the other (`sft join`).

    Args:
        folders: the work folders of the runs that there are.

    Raises:
        Interrupted: a signal asked to stop.
    """
    with stop_on_signals() as stop:
        help_out(folders, lambda meeting: _follow(meeting, stop, lambda: None, 1.0).returncode)


def _failure(out: Path, whose: str, code: int, stop: StopRequest) -> SftError:
    """What the processes said why they ended; the earliest had the reason."""
    for file in sorted((out / FAILED).glob(f"{whose}.json"), key=lambda file: file.stat().st_mtime_ns):
        said = read_json(file)
        kind: type[SftError] = getattr(errors, said["kind"])
        return kind(said["message"])
    if stop:
        return Interrupted(f"training stopped by {stop.asked_by} before it could save; start the same run again: it "
                           "continues from its last checkpoint, if there is one")
    return TrainingError(f"the training processes ended with code {code} and gave no report (killed, "
                         "perhaps because memory ran out; see what they printed); start the run again: it continues "
                         "from its last checkpoint")


def _check_devices(inputs: TrainInputs, section: TrainSection) -> None:
    if resolve_device(inputs.model).type == "cuda" and section.processes > torch.cuda.device_count():
        raise ModelError(f"train.processes is {section.processes}, but this machine has {torch.cuda.device_count()} "
                         "GPUs; lower it, or share the steps with other machines (train.machines)")


if __name__ == "__main__":
    sys.exit(main())
