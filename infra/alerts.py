"""Who hears of a red night: Prefect, as an event that automations react to, and whoever listens behind a webhook.

A receiver that is away costs a warning: the flow's state and the MLflow run say the same. The webhook's address is a
secret of its own, so no message repeats it, also not within what the HTTP library says of a failure.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import requests
from prefect.automations import AutomationCore, EventTrigger, Posture, SendNotification
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra.settings import nightly_webhook
from infra.standing import AUTOMATION
from sft_core.errors import ConfigError

log = logging.getLogger("sft")
EVENT = "sft.night"
"""What the names of our events begin with; the outcome follows."""
RED = frozenset({"regression", "blind"})
"""Outcomes that people are told."""
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


def wake(api_url: str, block: str) -> str:
    """Make the automation by which Prefect sends the sentence of a red night to a notification block, as TYPE/NAME, or
    set the one that is there to this block; returns which of them was done.

    Raises:
        ConfigError: there is no such block.
    """
    kind, _, name = block.partition("/")
    with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
        try:
            found = client.read_block_document_by_name(name, kind)
        except ObjectNotFound as error:
            raise ConfigError(f"--notify {block!r} is no notification block of {api_url}; it is TYPE/NAME, e.g. "
                              "slack-webhook/team; make one on the page Blocks of Prefect, or see `prefect block ls`"
                              ) from error
        there = client.read_automations_by_name(AUTOMATION)
        trigger = EventTrigger(expect={f"{EVENT}.{outcome}" for outcome in RED}, posture=Posture.Reactive, threshold=1,
                               match={"prefect.resource.id": "sft.model.*"})
        wanted = AutomationCore(name=AUTOMATION, trigger=trigger, actions=[SendNotification(
            block_document_id=found.id, subject="sft: {{ event.resource.name }}, {{ event.payload.outcome }}",
            body="{{ event.payload.sentence }} {{ event.payload.mlflow or '' }} {{ event.payload.prefect or '' }}")])
        if there:
            client.update_automation(there[0].id, wanted)
            return "the automation was there and is set to it"
        client.create_automation(wanted)
        return "an automation was made"
