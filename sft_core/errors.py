"""Errors a user may meet. Each message says which thing, what it was, what was allowed and what to do next.

`exit_code` is what the command line ends with: 1 failed, 2 usage or configuration, 3 gate failed.
"""

from __future__ import annotations

import errno

from sft_core.masking import masked
from sft_core.visible import visible


class SftError(Exception):
    """Base of every error that the platform raises on purpose; the command line prints it without a traceback.

    Its message holds no password and nothing that a terminal would obey, whatever it was made of.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(visible(masked(message)))


class DamagedFile(SftError, ValueError):
    """A file that this platform wrote does not hold what it wrote."""


class ConfigError(SftError):
    """The configuration or the command line is wrong; nothing has been started."""

    exit_code = 2


class DiskError(SftError):
    """A disk is full, or a folder cannot be written."""


def disk_advice(error: BaseException) -> str:
    """What to do about a file that could not be written. Libraries have errors of their own for a full disk, and say
    no number; one that the system numbers otherwise has another cause."""
    number = error.errno if isinstance(error, OSError) else None
    return "free some space" if number in (None, errno.ENOSPC, errno.EDQUOT) else \
        "see that the folder is there and may be written"


class DataError(SftError):
    """A data source is missing, unreadable, or does not hold what the configuration says it does."""


class TemplateError(SftError):
    """A chat template cannot be used for training: it raises, drops turns or has no stop token."""


class ModelError(SftError):
    """A model folder is missing or incomplete, or does not fit its tokenizer or adapter."""


class TrainingError(SftError):
    """Training cannot go on: non-finite loss, no trained token in a step, counters that differ from the plan."""


class EvalError(SftError):
    """A suite is unknown, its items cannot be read, or its results cannot be compared."""


class TrackingError(SftError):
    """The experiment tracker is configured but cannot be reached."""


class HubError(SftError):
    """The Hugging Face hub cannot be reached, or refuses what is sent to it."""


class OrchestrationError(SftError):
    """Prefect is configured but cannot be reached, or a deployment cannot be made."""


class RegressionFound(SftError):
    """A nightly evaluation has proved that the champion is worse than its stored result."""


class Interrupted(SftError):
    """Ctrl-C or SIGTERM: the state was saved; the message says how to continue."""


class GateFailed(SftError):
    """The run finished and its declared gate says no."""

    exit_code = 3
