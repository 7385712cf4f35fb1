"""Signals set a flag; loops look at it; locks are waited for in the same way."""

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

from sft_core.errors import Interrupted
from sft_core.locks import exclusive
from sft_core.stopping import BURST_S, check, sleep, stop_on_signals


class Thing:
    """Something to be referred to weakly."""


WAITS = """
import time
from eval_suites.backends.parallel import as_they_end
from sft_core.stopping import stop_on_signals

def wait(seconds):
    print("waits", flush=True)
    time.sleep(seconds)

with stop_on_signals():
    list(as_they_end(wait, [60, 60, 60], 2))
"""


def test_a_request_under_way_holds_nobody_up() -> None:
    """The threads of a pool did: Python waits for them at its end."""
    process = subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    began = time.monotonic()
    process.terminate()
    _, said = process.communicate(timeout=50)
    assert time.monotonic() - began < 20
    assert b"stopped by SIGTERM" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_inside_a_weakref_callback_is_not_lost(number: signal.Signals) -> None:
    """A handler that raises is swallowed there: Python prints the exception and goes on."""
    with stop_on_signals():
        thing = Thing()
        watch = weakref.ref(thing, lambda _: os.kill(os.getpid(), number))
        del thing
        assert watch() is None
        with pytest.raises(Interrupted, match=f"stopped by {number.name}; .* run the same command again"):
            check()


def test_handlers_are_put_back_and_the_flag_goes_with_its_block() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop
    assert signal.getsignal(signal.SIGTERM) is before
    check()


def test_inner_block_hears_the_outer_one_and_not_the_other_way_round() -> None:
    with stop_on_signals() as outer:
        with stop_on_signals() as inner:
            signal.raise_signal(signal.SIGTERM)
            assert inner
            assert not outer
        check()
        with stop_on_signals() as inner:
            outer.signal_name = "SIGTERM"
            assert inner.asked_by == "SIGTERM"
        with pytest.raises(Interrupted), stop_on_signals():
            raise AssertionError("a stop that was asked for already begins nothing")


def test_handler_of_another_library_that_raises_is_our_stop() -> None:
    """Prefect's raises a BaseException of its own and passes the signal on."""

    class Termination(BaseException):
        pass

    def theirs(number: int, frame: object) -> None:
        raise Termination

    def block() -> None:
        with stop_on_signals():
            ours = signal.signal(signal.SIGTERM, theirs)
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.signal(signal.SIGTERM, ours)
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        block()


def test_other_threads_hear_the_flag() -> None:
    heard: list[str] = []

    def wait() -> None:
        try:
            with stop_on_signals():
                sleep(60)
        except Interrupted as error:
            heard.append(str(error))

    with stop_on_signals():
        thread = threading.Thread(target=wait)
        thread.start()
        signal.raise_signal(signal.SIGTERM)
        thread.join(10)
    assert heard


SECOND = """
import time
from sft_core.stopping import stop_on_signals
with stop_on_signals():
    print("begun", flush=True)
    while True:
        time.sleep(0.1)
"""


def test_another_signal_ends_the_process_and_a_burst_does_not() -> None:
    process = subprocess.Popen([sys.executable, "-c", SECOND], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    for _ in range(5):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(BURST_S)
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == -signal.SIGINT


HOLD = """
import sys, time
from pathlib import Path
from sft_core.locks import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_wait_for_a_lock_can_be_stopped_and_ends_with_its_holder(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    assert lock.read_text() == str(process.pid)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    began = time.monotonic()
    with pytest.raises(Interrupted), stop_on_signals(), exclusive(lock):
        raise AssertionError("another process holds it")
    assert time.monotonic() - began < 5
    process.kill()
    process.wait()
    with exclusive(lock):
        assert lock.read_text() == str(os.getpid())
