"""Times, ids, names, canonical bytes, settings."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.kernel import canonical, ids, settings, times
from loopwright.kernel.errors import Invalid

SPEC = Path(__file__).parents[2] / "docs" / "spec" / "identity-1.json"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_vectors_of_identity_1() -> None:
    doc = json.loads(SPEC.read_text())
    assert doc["blobs"] and doc["values"] and doc["trees"]
    for vector in doc["blobs"]:
        assert canonical.digest_bytes(vector["text"].encode()) == vector["id"]
    for vector in doc["values"]:
        assert canonical.encode(vector["value"]).decode() == vector["bytes"]
        assert canonical.digest(vector["value"]) == vector["id"]


def _typed(value: object) -> object:
    if isinstance(value, dict):
        return ("m", tuple(sorted((k, _typed(v)) for k, v in value.items())))
    if isinstance(value, list):
        return ("l", tuple(_typed(v) for v in value))
    return (type(value).__name__, str(value) if value == 0 else value)


@given(VALUES, VALUES)
def test_equal_values_and_only_they_have_equal_bytes(a: object, b: object) -> None:
    assert (canonical.encode(a) == canonical.encode(b)) == (repr(_typed(a)) == repr(_typed(b)))


def test_a_mapping_does_not_remember_its_order() -> None:
    assert canonical.digest({"a": 1, "b": 2}) == canonical.digest({"b": 2, "a": 1})


@given(st.integers(min_value=-62_000_000_000_000_000, max_value=250_000_000_000_000_000))
def test_times_come_back(at_us: int) -> None:
    assert times.parse_time(times.format_time(at_us)) == at_us


@pytest.mark.parametrize("text", ["yesterday", "", "2013-13-01", "12:00"])
def test_bad_times_are_refused_by_name(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        times.parse_time(text, "until")
    assert caught.value.field == "until"


@pytest.mark.parametrize(("text", "span"), [("7d", 7 * times.DAY), ("1h30m", 90 * times.MINUTE), ("50ms", 50_000)])
def test_durations(text: str, span: int) -> None:
    assert times.parse_duration(text) == span
    assert times.parse_duration(times.format_duration(span)) == span


def test_days_follow_the_zone_over_a_change_of_clocks() -> None:
    start = times.day_start("2013-03-10", "America/New_York")
    assert times.day_start("2013-03-11", "America/New_York") - start == 23 * times.HOUR
    assert times.day_of(start - 1, "America/New_York") == "2013-03-09"


@pytest.mark.parametrize("text", ["", "A", "../x", "a/b", "a b", "é", "a" * 101, ".x", "a..b"])
def test_bad_names(text: str) -> None:
    with pytest.raises(Invalid):
        ids.valid_name(text)


@pytest.mark.parametrize("text", ["/etc/passwd", "a/../b", "", "a//b", "a\\b", "a\0b", "./a"])
def test_bad_paths(text: str) -> None:
    with pytest.raises(Invalid):
        ids.valid_path(text)


def test_ids_differ_and_carry_their_kind() -> None:
    made = {ids.new_id("run") for _ in range(1000)}
    assert len(made) == 1000
    for text in made:
        assert ids.valid_id(text, "run") == text
    with pytest.raises(Invalid):
        ids.valid_id(made.pop(), "pred")


def test_a_word_that_is_neither_yes_nor_no_shuts_nothing_open(tmp_path: Path) -> None:
    for word, said in (("on", True), (" TRUE ", True), ("1", True), ("no", False), ("off", False)):
        assert settings.read(tmp_path, {"LOOPWRIGHT_BEHIND_PROXY": word}).behind_proxy is said
    with pytest.raises(Invalid) as caught:
        settings.read(tmp_path, {"LOOPWRIGHT_BEHIND_PROXY": "enabled"})
    assert caught.value.field == "LOOPWRIGHT_BEHIND_PROXY"


def test_settings_are_read_written_and_refused(tmp_path: Path) -> None:
    assert settings.read(tmp_path).clock == "wall"
    settings.write(tmp_path, settings.Settings(clock="replay", start="2013-04-01T04:00", entry="flights.py"))
    assert settings.read(tmp_path).start_us == times.parse_time("2013-04-01T04:00:00Z")
    for text, field in [
        ('clock = "moon"', "clock"),
        ("colour = 1", "colour"),
        ('clock = "replay"', "start"),
        ("port = 70000", "port"),
        ("workers = -1", "workers"),
        ("=", "TOML"),
    ]:
        (tmp_path / "loopwright.toml").write_text(text)
        with pytest.raises(Invalid, match=field):
            settings.read(tmp_path)


def test_channels_are_read_written_and_refused_without_repeating_a_secret(tmp_path: Path) -> None:
    mail = settings.Channel(kind="mail", server="mail.example.org:25", sender="a@example.org", to=("b@example.org",))
    slack = settings.Channel(kind="slack", url_env="HOOK", about=("decisions",), endpoints=("delay",))
    settings.write(tmp_path, settings.Settings(port=4700, notify={"nights": mail, "ops": slack}))
    assert settings.read(tmp_path).notify == {"nights": mail, "ops": slack}
    for field, said in {
        "url_env": 'kind = "slack"',
        "url_env ": 'kind = "teams"\nurl_env = "https://topsecret.example.org"',
        "to": 'kind = "mail"\nserver = "a:25"\nsender = "a@b.c"\nto = ["topsecret"]',
        "server": 'kind = "mail"\nserver = "topsecret"\nsender = "a@b.c"\nto = ["a@b.c"]',
        "kind": 'kind = "pigeon"',
        "wrong": 'kind = "slack"\nurl_env = "A"\nwrong = 1',
    }.items():
        (tmp_path / settings.FILE).write_text(f"[notify.ops]\n{said}\n")
        with pytest.raises(Invalid, match=field.strip()) as told:
            settings.read(tmp_path)
        assert "topsecret" not in str(told.value)
