"""loopwright.toml, the settings of a project, and the environment variables that stand above it."""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from loopwright.kernel.errors import Invalid
from loopwright.kernel.files import fresh_file, fsync_folder
from loopwright.kernel.times import format_time, parse_time

FILE = "loopwright.toml"
ENVIRONMENT = {
    "database": "LOOPWRIGHT_DATABASE",
    "schema": "LOOPWRIGHT_SCHEMA",
    "blobs": "LOOPWRIGHT_BLOBS",
    "blobs_endpoint": "LOOPWRIGHT_BLOBS_ENDPOINT",
    "host": "LOOPWRIGHT_HOST",
    "tls_cert": "LOOPWRIGHT_TLS_CERT",
    "tls_key": "LOOPWRIGHT_TLS_KEY",
    "public_hosts": "LOOPWRIGHT_PUBLIC_HOSTS",
    "behind_proxy": "LOOPWRIGHT_BEHIND_PROXY",
    "remote": "LOOPWRIGHT_REMOTE",
}
_SCHEMA = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_HOST = re.compile(r"[A-Za-z0-9.:-]{1,253}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_CHANNEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_MAIL = re.compile(r"[^@\s<>,;:\x00-\x1f]{1,64}@[A-Za-z0-9.-]{1,253}")
_QUERY = ("sslmode", "sslrootcert", "sslcert", "sslkey", "host", "port", "target_session_attrs")


class Channel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where messages go: a table `[notify.NAME]`. Secrets stand in environment variables, which it names.

    Args:
        kind: which form of message, and by which wire.
        url_env: the variable that holds the address of a Slack, Teams or plain webhook.
        secret_env: the variable that holds the key by which a plain webhook's messages are signed.
        about: `pages` (alarms, broken feeds, roll-backs, failed trainings), `approvals`, `decisions` (promotions).
        endpoints: only these; all when empty.
        server: the mail server, `host:port`; `user` and `password_env` where it asks for them.
        sender, to: the mail's.
        encryption: of the way to the mail server.
    """

    kind: Literal["slack", "teams", "mail", "webhook"]
    url_env: str | None = None
    secret_env: str | None = None
    about: tuple[Literal["pages", "approvals", "decisions"], ...] = ("pages", "approvals")
    endpoints: tuple[str, ...] = ()
    server: str | None = None
    user: str | None = None
    password_env: str | None = None
    sender: str | None = None
    to: tuple[str, ...] = ()
    encryption: Literal["starttls", "tls", "none"] = "starttls"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What loopwright.toml may say.

    Args:
        clock: `wall`, or `replay` when a replay drives the Space's time.
        start: where a replay clock starts, RFC 3339.
        entry: the project file that declares data, steps and endpoints.
        port: where control listens; the next free port when taken.
        workers: processes that answer predictions; 0 = one less than the cores, at least one.
        database: `postgresql://user@host:port/db`; a SQLite file in the project when not said. Never holds a password.
        schema: the PostgreSQL schema of this Space.
        blobs: `s3://bucket/prefix`; a folder in the project when not said.
        blobs_endpoint: where the object store answers, `http(s)://host:port`.
        host: the address that `lw up` listens on.
        tls_cert: PEM file of the certificate chain that `lw up` shows.
        tls_key: PEM file of its key.
        public_hosts: Host names that are answered to besides loopback's.
        behind_proxy: whether a proxy in front ends TLS.
        notify: channels by name, to which messages go.
        remote: the folder that `lw push` and `lw pull` copy to and from; a relative one lies in the project.
    """

    clock: Literal["wall", "replay"] = "wall"
    start: str | None = None
    entry: str | None = None
    port: int = 4600
    workers: int = 0
    database: str | None = None
    schema: str = "loopwright"
    blobs: str | None = None
    blobs_endpoint: str | None = None
    host: str = "127.0.0.1"
    tls_cert: str | None = None
    tls_key: str | None = None
    public_hosts: tuple[str, ...] = ()
    behind_proxy: bool = False
    notify: dict[str, Channel] = {}
    remote: str | None = None

    @property
    def start_us(self) -> int | None:
        """`start` in microseconds."""
        return None if self.start is None else parse_time(self.start, "start")


def same(one: Settings, other: Settings) -> bool:
    """Whether two settings say the same, however the start is written."""
    return one.start_us == other.start_us and msgspec.structs.replace(one, start=other.start) == other


def read(root: Path, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of the project in `root`, with what the environment says above them; passwords stay out.

    Raises:
        Invalid: the file is not TOML, or a key or value is not known.
    """
    return overlay(read_file(root), environ)


def overlay(settings: Settings, environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings with what the environment says above them.

    Raises:
        Invalid: a variable does not have its form.
    """
    found: dict[str, Any] = {field: environ[name] for field, name in ENVIRONMENT.items() if environ.get(name)}
    if not found:
        return settings
    if "database" in found:
        found["database"] = split_password(found["database"], ENVIRONMENT["database"])[0]
    if "public_hosts" in found:
        found["public_hosts"] = tuple(found["public_hosts"].split(","))
    if "behind_proxy" in found:
        found["behind_proxy"] = _yes(found["behind_proxy"], ENVIRONMENT["behind_proxy"])
    made = msgspec.structs.replace(settings, **found)
    _check(made, "the environment", lambda field: ENVIRONMENT.get(field, field))
    return made


def _yes(word: str, field: str) -> bool:
    """What a word says; one that is not known is not taken for a no, which might open what was to be shut."""
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if word.strip().lower() not in words:
        raise Invalid(f"{field} must be true or false", code="settings.value", field=field)
    return words[word.strip().lower()]


def file_of(root: Path, name: str | None) -> str | None:
    """The path of a file that a setting names; a relative one lies in the project."""
    return None if name is None else str(root / name)


def read_file(root: Path) -> Settings:
    """What loopwright.toml alone says; the defaults when there is no file.

    Raises:
        Invalid: the file is not TOML, or a key or value is not known.
    """
    path = root / FILE
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return Settings()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{FILE} is not TOML: {error}", code="settings.form", field=FILE) from None
    if hasattr(raw.get("start"), "isoformat"):
        raw["start"] = raw["start"].isoformat()
    try:
        settings = msgspec.convert(raw, Settings)
    except msgspec.ValidationError as error:
        raise Invalid(f"{FILE}: {error}", code="settings.value", field=FILE, hint=f"edit {FILE}") from None
    if settings.clock == "replay" and settings.start is None:
        raise Invalid(
            f'{FILE}: clock = "replay" needs start, such as start = "2013-04-01T04:00:00Z"',
            code="settings.start",
            field="start",
        )
    if settings.start is not None:
        parse_time(settings.start, "start")
    _check(settings, FILE, str)
    return settings


def write(root: Path, settings: Settings) -> Path:
    """Write the settings that differ from the defaults to `root`/loopwright.toml.

    Raises:
        Invalid: a value is not one that can be read back.
    """
    _check(settings, FILE, str)
    lines = []
    for field, value in msgspec.structs.asdict(settings).items():
        if value is not None and value != getattr(Settings(), field) and field != "notify":
            if field == "start":
                value = format_time(parse_time(value))
            lines.append(f"{field} = {_toml(value)}")
    for channel, said in settings.notify.items():
        lines.append(f"\n[notify.{channel}]")
        told = msgspec.structs.asdict(said).items()
        lines += [f"{field} = {_toml(value)}" for field, value in told if value not in (None, ())]
    path = root / FILE
    with fresh_file(path) as fresh, fresh.open("w", encoding="utf-8") as stream:  # half of it is another project
        stream.write("\n".join(lines) + ("\n" if lines else ""))
        stream.flush()
        os.fsync(stream.fileno())
    fsync_folder(root)
    return path


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return msgspec.json.encode(value).decode()  # strings, numbers, true and false read the same in TOML


def split_password(url: str, field: str = "database") -> tuple[str, str | None]:
    """A database's address without its password, and the password.

    Raises:
        Invalid: it is no such address; the text, which may hold a secret, is not repeated.
    """
    from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit  # only when there is an address

    try:
        parts = urlsplit(url)
        password, query = parts.password, parse_qsl(parts.query, strict_parsing=True) if parts.query else []
        known = parts.port is None or parts.port > 0
    except ValueError:
        known, parts, password, query = False, SplitResult("", "", "", "", ""), None, []
    asked = [value for key, value in query if key == "password"]
    query = [(key, value) for key, value in query if key != "password"]
    name = parts.path.strip("/")
    if not known or parts.scheme not in ("postgresql", "postgres") or not name or "/" in name or parts.fragment:
        raise Invalid(f"{field} must read postgresql://user@host:port/database", code="settings.database", field=field)
    for key, _ in query:
        if key not in _QUERY:
            raise Invalid(
                f"{field}: {key[:40]!r} is not one of {', '.join(_QUERY)}", code="settings.database", field=field
            )
    user, _, place = parts.netloc.rpartition("@")
    netloc = f"{user.partition(':')[0]}@{place}" if user else place
    shown = f"postgresql://{netloc}/{name}" + (f"?{urlencode(query)}" if query else "")
    return shown, asked[-1] if asked else None if password is None else unquote(password)


def database_password(environ: Mapping[str, str] = os.environ) -> str | None:
    """The password in LOOPWRIGHT_DATABASE, if any; PGPASSWORD and ~/.pgpass are read by the driver."""
    url = environ.get(ENVIRONMENT["database"])
    return split_password(url, ENVIRONMENT["database"])[1] if url else None


def _check_channel(where: str, name: str, channel: Channel) -> None:
    place = f"notify.{name}"
    mails = channel.kind == "mail"
    host, _, port = (channel.server or "").rpartition(":")
    names = (channel.url_env, channel.secret_env, channel.password_env)
    needed = {"server": channel.server, "sender": channel.sender, "to": channel.to} if mails else {"url_env": names[0]}
    for field, value in needed.items():
        if not value:
            raise Invalid(f"{where}: {place} needs {field}", code="settings.channel", field=f"{place}.{field}")
    for field, good, form in (
        ("name", _CHANNEL.fullmatch(name), "letters, digits, - and _, at most 40"),
        ("url_env", all(v is None or _VARIABLE.fullmatch(v) for v in names), "the name of an environment variable"),
        ("server", not mails or (_HOST.fullmatch(host) and port.isdigit() and int(port) < 65536), "host:port"),
        ("to", all(_MAIL.fullmatch(a) for a in (*channel.to, *filter(None, [channel.sender]))), "mail addresses"),
    ):
        if not good:  # the value is not repeated: somebody may have put the secret itself there
            field = f"{place}.{field}"
            raise Invalid(f"{where}: {field} must be {form}", code="settings.channel", field=field)


def _check(settings: Settings, where: str, name: Any) -> None:
    for channel, said in settings.notify.items():
        _check_channel(where, channel, said)
    for field, value, most in (("port", settings.port, 65535), ("workers", settings.workers, 64)):
        if not 0 <= value <= most:
            raise Invalid(f"{where}: {field} must be 0 to {most}, not {value}", code="settings.value", field=field)
    if settings.database is not None and split_password(settings.database, name("database"))[1] is not None:
        raise Invalid(
            f"{where}: database holds a password, and a file is no place for one",
            code="settings.password",
            field="database",
            hint="leave it out and set PGPASSWORD, LOOPWRIGHT_DATABASE or ~/.pgpass",
        )
    for field, good, form in (
        ("schema", _SCHEMA.fullmatch(settings.schema), "lower-case letters, digits and _, at most 63, not pg_..."),
        ("blobs", _is_store(settings.blobs), "s3://bucket or s3://bucket/prefix"),
        ("blobs_endpoint", _is_endpoint(settings.blobs_endpoint), "http(s)://host:port"),
        ("host", _HOST.fullmatch(settings.host), "an address or a host name"),
        ("remote", settings.remote is None or _is_folder(settings.remote), "the path of a folder"),
        ("public_hosts", all(map(_HOST.fullmatch, settings.public_hosts)), "a list of host names"),
        ("tls_key", (settings.tls_key is None) == (settings.tls_cert is None), "given together with tls_cert"),
    ):
        if not good:
            raise Invalid(f"{where}: {name(field)} must be {form}", code="settings.value", field=field)


def _is_folder(path: str) -> bool:
    return bool(path) and "\0" not in path and "://" not in path


def _is_store(url: str | None) -> bool:
    if url is None:
        return True
    scheme, _, place = url.partition("://")
    bucket, _, prefix = place.rstrip("/").partition("/")
    parts = prefix.split("/")
    good = not prefix or (_PREFIX.fullmatch(prefix) is not None and not {".", ".."} & set(parts))
    return scheme == "s3" and _BUCKET.fullmatch(bucket) is not None and good


def _is_endpoint(url: str | None) -> bool:
    if url is None:
        return True
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    bare = not (parts.query or parts.fragment or parts.username or parts.password) and parts.path in ("", "/")
    return parts.scheme in ("http", "https") and bool(parts.hostname) and bare and (port is None or port > 0)
