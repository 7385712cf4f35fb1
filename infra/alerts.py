"""Who hears of a red night: Prefect, as an event that automations react to, and whoever listens behind a webhook.

A receiver that is away costs a warning: the flow's state and the MLflow run say the same. The webhook's address is a
secret of its own, so no message repeats it, also not within what the HTTP library says of a failure.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import requests
from prefect.events import emit_event

from infra.settings import nightly_webhook

log = logging.getLogger("sft")
EVENT = "sft.night"
"""What the names of our events begin with; the outcome follows."""
TIMEOUT_S = 10.0


def emit(name: str, outcome: str, told: Mapping[str, str | None]) -> None:
    """Tell Prefect what a night of a registered model found: an event of the resource `sft.model.NAME`."""
    resource = {"prefect.resource.id": f"sft.model.{name}", "prefect.resource.name": name}
    emit_event(f"{EVENT}.{outcome}", resource, payload=dict(told))


def post(told: Mapping[str, str | None]) -> None:
    """Send it as JSON to the webhook, where there is one. `text` is what chat services show."""
    url = nightly_webhook()
    if url is None:
        return
    try:
        answer = requests.post(url, json={**told, "text": told["sentence"]}, timeout=TIMEOUT_S)
    except (requests.RequestException, ValueError) as error:
        log.warning("the webhook SFT_NIGHTLY_WEBHOOK was not told of this night: %s; look whether its receiver is "
                    "there", type(error).__name__)
        return
    if not answer.ok:
        log.warning("the webhook SFT_NIGHTLY_WEBHOOK refused to be told of this night: HTTP %s; look whether its "
                    "address is still right", answer.status_code)
