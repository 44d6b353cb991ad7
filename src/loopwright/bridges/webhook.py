"""A plain webhook: the message as JSON, signed when there is a key."""

import hashlib
import hmac

import msgspec

from loopwright.bridges import post
from loopwright.kernel.clock import machine_us
from loopwright.kernel.settings import Channel
from loopwright.kernel.times import SECOND
from loopwright.loop.messages import Message

SCHEMA = "lw.notification/1"


def send(channel: Channel, message: Message) -> None:
    """Send a message; a receiver tells a repeat by its Idempotency-Key, and ours by the signature over `time.body`."""
    body = msgspec.json.encode({"schema": SCHEMA, **msgspec.to_builtins(message), "facts": dict(message.facts)})
    headers = {"Idempotency-Key": message.id}
    if channel.secret_env is not None:
        made_s = str(machine_us() // SECOND)
        headers |= {"Loopwright-Time": made_s, "Loopwright-Signature": f"sha256={signature(channel, made_s, body)}"}
    post.post(channel.url_env, body, headers)


def signature(channel: Channel, made_s: str, body: bytes) -> str:
    """HMAC-SHA-256 of the time, a dot and the body."""
    key = post.variable(channel.secret_env).encode()
    return hmac.new(key, made_s.encode() + b"." + body, hashlib.sha256).hexdigest()
