"""What each foreign system is sent, held against its format by a receiver of its own kind."""

import email
import email.policy
import hashlib
import hmac
import json
import socket
from typing import Any

import adaptive_card
import jsonschema
import msgspec
import pytest
import receivers
from hypothesis import given
from hypothesis import strategies as st
from slack_sdk.models.blocks import Block

from loopwright.bridges import mail, slack, teams, webhook
from loopwright.kernel.errors import Invalid, Unavailable
from loopwright.kernel.settings import Channel
from loopwright.loop.messages import Message

MESSAGE = Message(
    id="ops/7", episode="7", state="opened", about="pages", kind="alarm.opened@1", endpoint="delay",
    title="delay: alarm quality", text="ALARM on delay: predicted 20 %, 31 % came true <!channel>",
    at="2013-06-14T04:00:00Z",
    facts=[("label rate", "0.31"), ("skill", "0.05")], todo="lw alarms delay",
)  # fmt: skip
SLACK = Channel(kind="slack", url_env="HOOK")
PLAIN = Channel(kind="webhook", url_env="HOOK", secret_env="HOOK_KEY")
TEXTS = st.text(max_size=5000)


def mailing(port: int, *to: str) -> Channel:
    return Channel(kind="mail", server=f"127.0.0.1:{port}", sender="lw@example.org", to=to, encryption="none")


def check_slack(body: dict[str, Any]) -> None:
    assert body["text"] and len(body["blocks"]) <= 50
    for block in Block.parse_all(body["blocks"]):
        block.validate_json()
        for element in getattr(block, "fields", None) or []:
            assert 0 < len(element.text) <= 2000


@given(title=TEXTS, text=TEXTS, facts=st.lists(st.tuples(TEXTS, TEXTS), max_size=15))
def test_whatever_a_message_holds_slack_and_teams_get_their_format(
    title: str, text: str, facts: list[tuple[str, str]]
) -> None:
    # A title begins with its endpoint and a sentence is never empty: see messages.py.
    odd = msgspec.structs.replace(MESSAGE, title="delay: " + title, text="told " + text, facts=facts)
    check_slack(slack.body(odd))
    card = teams.body(odd)
    jsonschema.validate(card, adaptive_card.ENVELOPE)
    assert len(msgspec.json.encode(card)) < adaptive_card.MOST_BYTES


def test_slack_and_teams_take_it_and_nobody_is_called_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with receivers.web() as web:
        monkeypatch.setenv("HOOK", web.url)
        slack.send(SLACK, MESSAGE)
        teams.send(Channel(kind="teams", url_env="HOOK"), MESSAGE)
    first, second = (json.loads(body) for body in web.bodies)
    check_slack(first)
    jsonschema.validate(second, adaptive_card.ENVELOPE)
    assert b"<!channel>" not in web.bodies[0] and "&lt;!channel&gt;" in first["blocks"][1]["text"]["text"]
    assert {head["content-type"] for head in web.headers} == {"application/json"}


def test_a_webhook_is_signed_and_says_which_message_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_KEY", "k")
    with receivers.web() as web:
        monkeypatch.setenv("HOOK", web.url)
        webhook.send(PLAIN, MESSAGE)
    head, body = web.headers[0], web.bodies[0]
    signed = hmac.new(b"k", head["loopwright-time"].encode() + b"." + body, hashlib.sha256).hexdigest()
    assert head["loopwright-signature"] == f"sha256={signed}" and head["idempotency-key"] == "ops/7"
    told = json.loads(body)
    assert told["schema"] == "lw.notification/1" and told["facts"]["skill"] == "0.05" and told["state"] == "opened"


@pytest.mark.parametrize(
    ("status", "headers", "raises"),
    [(429, {"Retry-After": "77"}, Unavailable), (503, {}, Unavailable), (404, {}, Invalid), (302, {}, Invalid)],
)
def test_answers_say_later_or_never_and_no_redirect_is_followed(
    monkeypatch: pytest.MonkeyPatch, status: int, headers: dict[str, str], raises: type[Exception]
) -> None:
    with receivers.web() as web:
        monkeypatch.setenv("HOOK", web.url)
        web.answers = [(status, headers | {"Location": web.url}, b"invalid_blocks")]
        with pytest.raises(raises, match=f"{status}.*invalid_blocks") as told:
            slack.send(SLACK, MESSAGE)
    assert len(web.bodies) == 1 and "secret" not in str(told.value)
    if status == 429:
        assert told.value.retry_after_s == 77  # type: ignore[attr-defined]


def test_an_address_is_a_secret_in_every_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for url, raises in (
        (f"http://127.0.0.1:{port}/topsecret", Unavailable),
        ("http://example.org/topsecret", Invalid),
        ("ftp://127.0.0.1/topsecret", Invalid),
        ("https://[topsecret", Invalid),
        ("https://127.0.0.1:99999/topsecret", Invalid),
        ("", Invalid),
    ):
        monkeypatch.setenv("HOOK", url)
        with pytest.raises(raises) as told:
            slack.send(SLACK, MESSAGE)
        assert "topsecret" not in str(told.value) + repr(told.value.__context__)


def test_mail_of_one_episode_lies_in_one_thread() -> None:
    with receivers.post_office() as post:
        channel = mailing(post.port, "a@example.org", "b@example.org")
        mail.send(channel, MESSAGE)
        mail.send(channel, msgspec.structs.replace(MESSAGE, id="ops/9", state="resolved", title="resolved\r\nBcc: x"))
    opened, ended = (email.message_from_bytes(envelope.content, policy=email.policy.default) for envelope in post.mails)
    assert post.mails[0].rcpt_tos == ["a@example.org", "b@example.org"]
    assert opened["Message-ID"] == ended["In-Reply-To"] == ended["References"] != ended["Message-ID"]
    assert "31 % came true" in opened.get_content() and ended["Subject"] == "resolved Bcc: x" and ended["Bcc"] is None


def test_mail_that_is_refused_is_not_tried_again_and_no_server_is() -> None:
    with receivers.post_office() as post:
        post.unknown = {"nobody@example.org"}
        with pytest.raises(Invalid, match="no receiver"):
            mail.send(mailing(post.port, "nobody@example.org"), MESSAGE)
    with pytest.raises(Unavailable):
        mail.send(mailing(post.port, "a@example.org"), MESSAGE)
    with receivers.post_office() as post, pytest.raises(Invalid, match="STARTTLS"):
        mail.send(msgspec.structs.replace(mailing(post.port, "a@example.org"), encryption="starttls"), MESSAGE)
