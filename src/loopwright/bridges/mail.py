"""Mail by SMTP: what opens and ends one episode lies in one thread of the reader's."""

import smtplib
import ssl
from email.message import EmailMessage
from email.utils import formatdate

from loopwright.bridges import post
from loopwright.kernel.errors import Invalid, Unavailable
from loopwright.kernel.settings import Channel
from loopwright.loop.messages import Message

TIMEOUT_S = 15.0


def send(channel: Channel, message: Message) -> None:
    """Send a message as plain text."""
    host, _, port = str(channel.server).rpartition(":")
    password = post.variable(channel.password_env) if channel.password_env else None
    try:
        with _connect(channel, host, int(port)) as server:
            if channel.encryption == "starttls":
                server.starttls(context=ssl.create_default_context())
            if channel.user and password:
                server.login(channel.user, password)
            server.send_message(letter(channel, message))
    except smtplib.SMTPRecipientsRefused:
        raise Invalid("no receiver was accepted", code="notify.refused", field="to") from None
    except smtplib.SMTPResponseException as error:
        if error.smtp_code >= 500:
            raise Invalid(f"it was refused with {error.smtp_code}", code="notify.refused") from None
        raise Unavailable(f"it answered {error.smtp_code}", code="notify.later") from None
    except smtplib.SMTPNotSupportedError:
        raise Invalid("the server offers no STARTTLS or login", code="notify.refused", field="encryption") from None
    except (OSError, smtplib.SMTPException) as error:
        raise Unavailable(f"no answer ({type(error).__name__})", code="notify.unreachable") from None


def _connect(channel: Channel, host: str, port: int) -> smtplib.SMTP:
    if channel.encryption == "tls":
        return smtplib.SMTP_SSL(host, port, timeout=TIMEOUT_S, context=ssl.create_default_context())
    return smtplib.SMTP(host, port, timeout=TIMEOUT_S)


def letter(channel: Channel, message: Message) -> EmailMessage:
    """The mail of a message."""
    mail = EmailMessage()
    mail["From"], mail["To"] = str(channel.sender), ", ".join(channel.to)
    mail["Subject"] = " ".join(message.title.split())[:200]
    mail["Date"] = formatdate(localtime=False)
    place = str(channel.sender).rpartition("@")[2]
    thread = f"<episode-{message.episode}@{place}>"
    if message.state == "opened":
        mail["Message-ID"] = thread
    else:
        mail["Message-ID"] = f"<{message.id.replace('/', '-')}@{place}>"
    if message.state == "resolved":
        mail["In-Reply-To"] = mail["References"] = thread
    mail["Auto-Submitted"] = "auto-generated"
    lines = [message.text, "", f"at {message.at}", *(f"{key}: {value}" for key, value in message.facts)]
    mail.set_content("\n".join([*lines, "", message.todo, ""]))
    return mail
