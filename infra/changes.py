"""Which settings a stored study has otherwise."""

from __future__ import annotations

import json
from collections.abc import Mapping


def changed(stored: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    """What differs between two identities of a plan, with the searched fields by name; empty where nothing does."""
    parts = []
    for part in {**wanted, **stored}:
        old, new = stored.get(part, []), wanted.get(part, [])
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            fields = sorted(key for key in old.keys() | new.keys() if _brief(old.get(key)) != _brief(new.get(key)))
            parts += [f"{part}.{key}: {_brief(old.get(key))} → {_brief(new.get(key))}" for key in fields]
        else:
            parts.append("the rest of the configuration" if part == "context" else part)
    return "; ".join(parts)


def _brief(setting: object) -> str:
    if isinstance(setting, dict):
        told = {key: value for key, value in setting.items() if value is not None and value is not False}
        return json.dumps({key: value for key, value in told.items() if value != {}})
    return "absent" if setting is None else str(setting)
