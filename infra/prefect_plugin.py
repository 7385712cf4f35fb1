"""Makes `prefect deployment run sft-sweep` work: a bare name means NAME/NAME, and the server is that of `sft up`.

Prefect takes only FLOW/DEPLOYMENT, and each of our deployments has its flow's name. Prefect calls this public plugin
hook before its command line reads `sys.argv`. Plugins are off by default: this repository's pyproject.toml switches
them on for commands given in its folder, `eval "$(sft up --shell)"` for a shell in all folders.
"""

from __future__ import annotations

import sys
from pathlib import PurePath

from prefect.plugins import HookContext, SetupResult, register_hook

from infra.settings import read_settings

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
def setup_environment(*, ctx: HookContext) -> SetupResult | None:  # keyword-only, or pluggy refuses the plugin
    """Prefect's start-up hook."""
    sys.argv[:] = full_name(sys.argv)
    if ctx.api_url is None and (url := read_settings().prefect_api_url):
        return SetupResult(env={"PREFECT_API_URL": url})
    return None
