"""Slack: Block Kit to an incoming webhook."""

import msgspec

from loopwright.bridges import post
from loopwright.kernel.settings import Channel
from loopwright.loop.messages import Message

_MARKS = {"opened": ":red_circle:", "resolved": ":large_green_circle:", "told": ":large_blue_circle:"}


def send(channel: Channel, message: Message) -> None:
    """Send a message as blocks; `text` is what notifications and screen readers show."""
    post.post(channel.url_env, msgspec.json.encode(body(message)), {})


def body(message: Message) -> dict[str, object]:
    """The blocks: a header, the sentence, the figures two abreast, when and what to type."""
    blocks: list[dict[str, object]] = [
        {"type": "header", "text": {"type": "plain_text", "text": _cut(message.title, 150), "emoji": True}},
        {"type": "section", "text": {"type": "mrkdwn", "text": _cut(_escaped(message.text), 2900)}},
    ]
    if message.facts:
        fields = [
            {"type": "mrkdwn", "text": _cut(f"*{_escaped(k)}*\n{_escaped(v)}", 1900)} for k, v in message.facts[:10]
        ]
        blocks.append({"type": "section", "fields": fields})
    foot = f"{_MARKS[message.state]} {message.at}  `{_escaped(message.todo)}`"
    blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": _cut(foot, 1900)}]})
    return {"text": _cut(_escaped(message.title), 2900), "blocks": blocks}


def _escaped(text: str) -> str:
    """Slack's three control characters, so that no text can mention people or become a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
