"""`sft clean`: what takes room in the workspace, and what goes by which rule."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from flows import console
from flows.place import look, workspace
from sft_core.errors import ConfigError
from tasks.clean import Rules, Thing, at_work, chosen, remove, things

NOTHING = "0.0 MiB"
UNITS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


def seconds_of(age: str) -> float:
    """`30d` and the like in seconds.

    Raises:
        ConfigError: it is none.
    """
    if not (found := re.fullmatch(r"(\d+)([hdw])", age)):
        raise ConfigError(f"--older-than {age!r} is no age; give a whole number of hours, days or weeks: 12h, 30d, 4w")
    return int(found[1]) * UNITS[found[2]]


def run_clean(rules: Rules, *, yes: bool, as_json: bool) -> None:
    """Show what takes room and what the rules would remove; with `yes` remove it."""
    place, tracker = workspace(), look()
    found, now = things(place, tracker), time.time()
    going = chosen(found, rules, now)
    gone = [one for one in going if remove(one, tracker)] if yes else []
    if as_json:
        console.as_json({"workspace": str(place.root), "at_work": at_work(place), "things": [
            {"kind": one.kind, "paths": list(map(str, one.paths)), "bytes": one.bytes, "days": _days(one, now),
             "rule": one.rule, "needed_by": one.needed, "runs": [run.name for run in one.runs], "goes": one in going,
             "gone": one in gone} for one in found]})
        return
    console.table(f"What takes room in {place.root}: {_size(found)}", _by_kind(found, now))
    if rules == Rules():
        console.lines("nothing is removed without a rule: --checkpoints, --caches, --older-than 30d, --keep-best 3")
        return
    console.table("Goes by these rules", [
        {"what": one.kind, "where": one.paths[0].relative_to(place.root), "size": _size([one]),
         "last used, days ago": f"{_days(one, now):.0f}", "model of": ", ".join(run.name for run in one.runs)}
        for one in going])
    if yes:
        left = f"; {len(going) - len(gone)} are in use by now and stay" if len(gone) < len(going) else ""
        console.lines(f"removed {len(gone)} things, {_size(gone)}{left}")
    else:
        console.lines(f"would remove {len(going)} things, {_size(going)}; nothing was removed: add --yes")


def _by_kind(found: Sequence[Thing], now: float) -> list[dict[str, object]]:
    groups: dict[tuple[str, str], list[Thing]] = {}
    for one in found:
        groups.setdefault((one.kind, one.needed), []).append(one)
    rows = sorted(groups.items(), key=lambda group: -sum(one.bytes for one in group[1]))
    small = [one for _, some in rows for one in some if _size(some) == NOTHING]
    shown = [{"what": kind, "number": len(some), "size": _size(some),
              "last used, days ago": _span([_days(one, now) for one in some]),
              "goes by": "" if needed else some[0].rule or "nothing", "needed by": needed}
             for (kind, needed), some in rows if _size(some) != NOTHING]
    return [*shown, {"what": "smaller things", "number": len(small), "size": _size(small),
                     "last used, days ago": _span([_days(one, now) for one in small]), "goes by": "", "needed by": ""}
            ] if small else shown


def _span(days: Sequence[float]) -> str:
    low, high = f"{min(days):.0f}", f"{max(days):.0f}"
    return low if low == high else f"{low} to {high}"


def _days(one: Thing, now: float) -> float:
    return max(0.0, round((now - one.used) / UNITS["d"], 1))


def _size(some: Sequence[Thing]) -> str:
    return shown_size(sum(one.bytes for one in some))


def shown_size(total: int) -> str:
    """Bytes for a person."""
    return f"{total / 2**30:.1f} GiB" if total >= 2**29 else f"{total / 2**20:.1f} MiB"
