"""Makes `prefect deployment run sft-sweep` work: a bare name means NAME/NAME.

Prefect takes only FLOW/DEPLOYMENT, and each of our deployments has its flow's name. Prefect calls this public plugin
hook before its command line reads `sys.argv`. Plugins are off by default: this repository's pyproject.toml switches
them on for commands given in its folder, `prefect config set PREFECT_PLUGINS_ENABLED=true` for all folders.
"""

from __future__ import annotations

import sys
from pathlib import PurePath
from typing import Any

from prefect.plugins import register_hook

PROGRAMS = {"prefect", "prefect.exe", "__main__.py"}
GROUPS = {"deployment", "deployments"}
VERBS = {"run", "inspect", "delete"}


def full_name(arguments: list[str]) -> list[str]:
    """The command's arguments with a bare deployment name doubled; all others unchanged."""
    match arguments:
        case [program, group, verb, name, *rest] if (
            PurePath(program).name in PROGRAMS and group in GROUPS and verb in VERBS
            and not name.startswith("-") and "/" not in name
        ):
            return [program, group, verb, f"{name}/{name}", *rest]
    return arguments


@register_hook
def setup_environment(*, ctx: Any) -> None:  # keyword-only, or pluggy refuses the plugin
    """Prefect's start-up hook."""
    sys.argv[:] = full_name(sys.argv)
