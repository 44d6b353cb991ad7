"""The settings of the warm recipe and of gates: read, checked, and refused by name."""

import msgspec
import pytest

from loopwright.kernel.errors import Invalid
from loopwright.kernel.times import DAY, HOUR, parse_time
from loopwright.releases.calendar import Calendar
from loopwright.releases.declare import better, default_gate, fast, floor, gate, known_in_time, warm
from loopwright.releases.model import GateSpec
from loopwright.releases.policy import Measured, WarmRecipe, fitted


def test_warm_without_words_is_the_recipe() -> None:
    assert warm() == WarmRecipe()
    assert (warm().every_days, warm().close_minutes, warm().canary) == (7, 240, (0.05, 0.25, 1.0))


def test_words_are_read() -> None:
    made = warm(every="14d", block_close="05:30", canary=[0.1, 1], canary_step="6h", cooldown="3d", at_most="4 in 28d")
    assert made.every_days == 14
    assert made.close_minutes == 330
    assert made.canary == (0.1, 1.0)
    assert made.canary_step_us == 6 * HOUR
    assert (made.cooldown_us, made.cap, made.cap_us) == (3 * DAY, 4, 28 * DAY)


def test_what_nobody_names_follows_the_data_and_what_is_named_stands() -> None:
    found = Measured(close_minutes=360, loss=0.47, sd=0.0174, blocks=50, labels=48)
    free = fitted(warm(), found)
    assert (free.close_minutes, free.past_sd, free.harm_limit, free.min_labels) == (360, 0.029, 0.0522, 24)
    named = warm(block_close="04:00", harm_limit=0.05, past_sd=0.03, min_labels=50)
    assert named.given == ("close_minutes", "harm_limit", "min_labels", "past_sd")
    assert fitted(named, found) == named
    assert fitted(warm(), Measured()) == warm()


@pytest.mark.parametrize(("usual", "needed"), [(900, 50), (100, 50), (48, 24), (6, 10)])
def test_a_block_counts_with_half_of_the_usual_labels_and_never_needs_more_than_fifty(usual: int, needed: int) -> None:
    assert fitted(warm(), Measured(labels=usual)).min_labels == needed


def test_labels_that_take_days_close_their_days_later() -> None:
    calendar = Calendar("UTC", warm(block_close="3d 04:00").close_minutes)
    assert calendar.close("2013-04-01") == parse_time("2013-04-05T04:00:00Z")
    assert calendar.closed_by(parse_time("2013-04-05T04:00:00Z")) == "2013-04-01"
    assert calendar.next_close(parse_time("2013-04-05T03:59:59Z")) == parse_time("2013-04-05T04:00:00Z")
    assert calendar.next_close(parse_time("2013-04-05T04:00:00Z")) == parse_time("2013-04-06T04:00:00Z")


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("every", {"every": "36h"}),
        ("every", {"every": "0d"}),
        ("block_close", {"block_close": "24:00"}),
        ("block_close", {"block_close": "4"}),
        ("block_close", {"block_close": "0d 04:00"}),
        ("block_close", {"block_close": "61d 04:00"}),
        ("given", {"given": ("alpha",)}),
        ("canary", {"canary": (0.25, 0.05, 1)}),
        ("canary", {"canary": (0.05, 0.25)}),
        ("canary", {"canary": (0.0, 1.0)}),
        ("canary_step", {"canary_step": "0h"}),
        ("min_blocks", {"min_blocks": 8}),
        ("min_gain", {"min_gain": 1.5}),
        ("cover", {"cover": 0}),
        ("alpha", {"alpha": 0.7}),
        ("harm_limit", {"harm_limit": -0.05}),
        ("rollback_min_blocks", {"rollback_min_blocks": 8}),
        ("rollback_min_blocks", {"rollback_min_blocks": 1}),
        ("cooldown", {"cooldown": "8d"}),
        ("at_most", {"at_most": "3 in 28d"}),
        ("at_most", {"at_most": "weekly"}),
        ("speed", {"speed": 3}),
    ],
)
def test_a_wrong_setting_is_refused_by_name(field: str, settings: dict[str, object]) -> None:
    with pytest.raises(Invalid) as caught:
        warm(**settings)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_a_gate_survives_its_own_encoding() -> None:
    made = gate(floor("auc", 0.68, holdout="31d"), better("log_loss", by=0.01), known_in_time(), fast(limit="50ms"))
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(msgspec.to_builtins(made))), GateSpec) == made
    assert len(default_gate().checks) == 2


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("metric", lambda: floor("f1", 0.5)),
        ("metric", lambda: better("auc")),
        ("by", lambda: better("log_loss", by=3)),
        ("limit", lambda: fast("0ms")),
        ("gate", lambda: gate(fast(), fast("1ms"))),
        ("gate", lambda: gate("fast")),
        ("holdout", lambda: floor("auc", 0.5, holdout="1h")),
    ],
)
def test_a_wrong_gate_is_refused_by_name(field: str, make: object) -> None:
    with pytest.raises(Invalid) as caught:
        make()  # type: ignore[operator]
    assert caught.value.field == field


def test_a_rhythm_that_the_cap_is_too_low_for_is_told_the_cap_that_is_enough() -> None:
    with pytest.raises(Invalid) as caught:
        warm(every="3d")
    assert caught.value.hint == 'at_most="10 in 28d"'
    assert warm(every="3d", at_most="10 in 28d").cap == 10
