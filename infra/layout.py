"""What a folder has to be to hold a workspace: of a layout that this version knows, and on a disk that takes locks."""

from __future__ import annotations

import fcntl
from contextlib import suppress
from pathlib import Path

from sft_core.errors import ConfigError, DiskError

LAYOUT = 1
"""Of the folders and files of a workspace; raised where an older version would misread what a newer one wrote."""
FILE = "layout"


def check_layout(workspace: Path, *, make: bool = True) -> None:
    """Look at an existing workspace, and note its layout where that is not noted yet and `make` is on.

    Raises:
        ConfigError: a newer version of the platform made it, or its note is damaged.
        DiskError: its disk takes no locks, on which everything here relies that two processes may want.
    """
    file = workspace / FILE
    if make:
        with suppress(FileExistsError), file.open("x", encoding="utf-8") as new:
            new.write(f"{LAYOUT}\n")
    if not file.exists():
        return
    with file.open(encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            raise DiskError(f"{workspace} takes no file locks ({error.strerror}), as some network folders do: two "
                            "commands would spoil each other's work; point SFT_HOME at a local disk, or mount the "
                            "folder with locks") from error
        said = handle.read().strip()
    if said and not said.isdecimal():
        raise ConfigError(f"{file} does not hold the number of a layout any more; remove it if this version of the "
                          "platform made the workspace, or restore it")
    if said and int(said) > LAYOUT:
        raise ConfigError(f"a newer version of the platform made the workspace {workspace} (layout {said}, this one "
                          f"knows {LAYOUT}); install that version, or point SFT_HOME at another folder")
