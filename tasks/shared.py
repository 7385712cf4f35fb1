"""A stage that another machine may have made, or may need."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from infra.shared_stages import SharedStages
from sft_core.stage import DONE, Stage

log = logging.getLogger("sft")


@dataclass(frozen=True)
class SharedStage(Stage):
    """Whoever takes its lock to make it finds it made where another machine has; what is made here is kept there."""

    elsewhere: SharedStages

    @contextmanager
    def lock(self) -> Iterator[None]:
        with super().lock():
            if self.result() is None and self._brought():
                log.info("%s: brought from the MLflow server", self.name)
            yield

    def finish(self, result: Mapping[str, object], seconds: float | None = None, *, listed: bool = False
               ) -> dict[str, Any]:
        said = super().finish(result, seconds, listed=listed)
        self.elsewhere.keep(f"{self.name}-{self.fingerprint}", self.folder, (DONE, self.work.name))
        return said

    def _brought(self) -> bool:
        """The mark comes last, and says what the stage is of: one of another fingerprint is not believed."""
        draft = self.folder / ".brought"
        shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
        try:
            if not self.elsewhere.bring(f"{self.name}-{self.fingerprint}", draft):
                return False
            shutil.rmtree(self.work, ignore_errors=True)
            (draft / self.work.name).rename(self.work)
            (draft / DONE).rename(self.folder / DONE)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return self.result() is not None
