"""loopwright.toml, the settings of a project."""

import tomllib
from pathlib import Path
from typing import Literal

import msgspec

from loopwright.kernel.errors import Invalid
from loopwright.kernel.times import format_time, parse_time

FILE = "loopwright.toml"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What loopwright.toml may say.

    Args:
        clock: `wall`, or `replay` when a replay drives the Space's time.
        start: where a replay clock starts, RFC 3339.
        entry: the project file that declares data, steps and endpoints.
        port: where control listens; the next free port when taken.
        workers: processes that answer predictions; 0 = one less than the cores, at least one.
    """

    clock: Literal["wall", "replay"] = "wall"
    start: str | None = None
    entry: str | None = None
    port: int = 4600
    workers: int = 0

    @property
    def start_us(self) -> int | None:
        """`start` in microseconds."""
        return None if self.start is None else parse_time(self.start, "start")


def same(one: Settings, other: Settings) -> bool:
    """Whether two settings say the same, however the start is written."""
    return one.start_us == other.start_us and msgspec.structs.replace(one, start=other.start) == other


def read(root: Path) -> Settings:
    """The settings of the project in `root`; the defaults when there is no file.

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
    for field, value, most in (("port", settings.port, 65535), ("workers", settings.workers, 64)):
        if not 0 <= value <= most:
            raise Invalid(f"{FILE}: {field} must be 0 to {most}, not {value}", code="settings.value", field=field)
    return settings


def write(root: Path, settings: Settings) -> Path:
    """Write the settings that differ from the defaults to `root`/loopwright.toml."""
    lines = []
    for field, value in msgspec.structs.asdict(settings).items():
        if value is not None and value != getattr(Settings(), field):
            if field == "start":
                value = format_time(parse_time(value))
            lines.append(f'{field} = "{value}"' if isinstance(value, str) else f"{field} = {value}")
    path = root / FILE
    fresh = path.with_name(f".{FILE}.new")  # whole or not at all: half of it would be another project
    fresh.write_text("\n".join(lines) + ("\n" if lines else ""), "utf-8")
    fresh.replace(path)
    return path
