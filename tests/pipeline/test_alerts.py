"""A red night as mail, by Prefect's own automation and notification block, to a real receiver on loopback."""

import time
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import cast

import pytest
from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra.alerts import AUTOMATION, emit, wake

Mailbox = tuple[int, list[tuple[list[str], EmailMessage]]]


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    """The port of a mail server, and for each mail that it took whom it is for, and what it says."""
    taken: list[tuple[list[str], EmailMessage]] = []

    class Receiver(StreamRequestHandler):
        def handle(self) -> None:
            self.say("220 here")
            whom: list[str] = []
            while (line := self.rfile.readline().strip()).upper() != b"QUIT" and line:
                if line.upper().startswith(b"RCPT"):
                    whom.append(line.decode())
                if line.upper() == b"DATA":
                    self.say("354 go on")
                    mail = b"".join(iter(self.rfile.readline, b".\r\n"))
                    taken.append((whom, cast(EmailMessage, message_from_bytes(mail, policy=policy.default))))
                self.say("250 ok")
            self.say("221 bye")

        def say(self, text: str) -> None:
            self.wfile.write(text.encode() + b"\r\n")

    with ThreadingTCPServer(("127.0.0.1", 0), Receiver) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], taken
        server.shutdown()


@pytest.fixture
def api(prefect_api: str) -> Iterator[str]:
    """The server, which has no automation of ours afterwards."""
    yield prefect_api
    with SyncPrefectClient(prefect_api) as client:
        for one in client.read_automations_by_name(AUTOMATION):
            client.delete_automation(one.id)


def test_a_red_night_is_mailed_and_others_are_not(api: str, mailbox: Mailbox) -> None:
    """Prefect's block for Slack takes any address of Apprise's, and mail is one; Slack's own can only be posted to
    Slack."""
    port, taken = mailbox
    with temporary_settings({PREFECT_API_URL: api}):
        address = f"mailto://127.0.0.1:{port}?from=sft@example.org&to=team@example.org&mode=insecure"
        SlackWebhook(url=address).save("mail", overwrite=True)
        assert "automation" in wake(api, "slack-webhook/mail"), AUTOMATION
        for outcome in ("drift", "blind"):
            emit("m", outcome, {"outcome": outcome, "sentence": f"m, night 2: <b>{outcome}</b> & so on", "mlflow": None,
                                "prefect": "http://p"})
        deadline = time.monotonic() + 60
        while not taken and time.monotonic() < deadline:
            time.sleep(0.1)
    ((whom, mail),) = taken
    assert "<team@example.org>" in whom[0]
    assert mail["subject"] == "sft: m, blind"
    text = "".join(part.get_content() for part in mail.walk() if not part.is_multipart())
    assert "night 2: " in text
    assert "http://p" in text
