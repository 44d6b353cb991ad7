"""Microsoft Teams: an Adaptive Card to the address of a Workflows flow, whose signature makes it a secret."""

import msgspec

from loopwright.bridges import post
from loopwright.kernel.settings import Channel
from loopwright.loop.messages import Message

_COLOURS = {"opened": "Attention", "resolved": "Good", "told": "Accent"}
# Signs of Markdown are escaped, control characters fall away; so the longest card stays under the 28 kB of a message.
_SPECIAL = str.maketrans({**{chr(c): " " for c in range(32)}, **{char: "\\" + char for char in "\\`*_[]()#"}})


def send(channel: Channel, message: Message) -> None:
    """Send a message as a card."""
    post.post(channel.url_env, msgspec.json.encode(body(message)), {})


def body(message: Message) -> dict[str, object]:
    """The envelope that Workflows takes, with one card of version 1.4."""
    parts: list[dict[str, object]] = [
        {
            "type": "TextBlock", "text": _plain(message.title, 300), "weight": "Bolder", "size": "Medium",
            "wrap": True, "color": _COLOURS[message.state],
        },
        {"type": "TextBlock", "text": _plain(message.text, 2000), "wrap": True},
    ]  # fmt: skip
    facts = [{"title": _plain(key, 100), "value": _plain(value, 300)} for key, value in message.facts[:10]]
    parts.append({"type": "FactSet", "facts": [{"title": "at", "value": message.at}, *facts]})
    parts.append({"type": "TextBlock", "text": message.todo, "fontType": "Monospace", "wrap": True, "isSubtle": True})
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": parts,
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _plain(text: str, most: int) -> str:
    """Text whose signs Teams does not read as Markdown."""
    return text[:most].translate(_SPECIAL)
