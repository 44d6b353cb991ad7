"""The roll-out as a pure state machine, driven day by day over synthetic blocks of known truth."""

import random
from collections.abc import Callable

import msgspec
import pytest

from loopwright.checks.gains import Pair
from loopwright.kernel.times import DAY, HOUR, add_days, parse_time
from loopwright.kernel.verdict import Verdict
from loopwright.monitors.model import SERVED, Block, BlockPair
from loopwright.releases import machine
from loopwright.releases import recipe as rules
from loopwright.releases.calendar import Calendar
from loopwright.releases.machine import Seen, look
from loopwright.releases.model import Better, Floor, Rollout
from loopwright.releases.policy import WarmRecipe

RECIPE = WarmRecipe()
CALENDAR = Calendar("UTC", 240)
T0 = parse_time("2013-04-15T04:00:00Z")
OK = Verdict(outcome="pass", check="canary", reason="fine")
BAD = Verdict(outcome="fail", check="canary", reason="9 of 10 calls failed")
LOSS, ROWS = 0.5, 900


def _rollout() -> Rollout:
    fresh = Rollout(
        id="r", endpoint="delay", champion=1, candidate=3, phase="shadow", step=-1, since_us=T0, next_us=None,
        first_day=CALENDAR.day(T0), opened_us=T0, cause=1,
    )  # fmt: skip
    return machine.open_rollout(fresh, CALENDAR)


def _drive(
    gains: Callable[[str], float | None],
    *,
    guards: Callable[[int], Verdict] = lambda step: OK,
    held: Callable[[int], bool] = lambda at_us: False,
    begun: Rollout | None = None,
    recipe: WarmRecipe = RECIPE,
) -> tuple[Rollout, list[tuple[str, str, int]]]:
    """Look at every moment that the roll-out asks for; `gains(day)` is a row's gain, None for a day without labels."""
    rollout, story = begun or _rollout(), []
    for _ in range(900):
        at_us = rollout.next_us
        if at_us is None:
            return rollout, story
        closed = CALENDAR.closed_by(at_us)
        own, day = [], rollout.first_day
        while day <= closed:
            gain = gains(day)
            if gain is not None:
                own.append(Pair(day=day, n=ROWS, loss_a=LOSS * ROWS, loss_b=(LOSS - gain) * ROWS, b=3))
            day = add_days(day, 1)
        asked = machine.guarded(rollout, recipe, CALENDAR, at_us)
        found = guards(rollout.step if rollout.phase == "canary" else 0) if asked else None
        seen = Seen(name="delay", metric="log_loss", own=own, guards=found, held=held(at_us))
        move = look(rollout, recipe, CALENDAR, at_us, seen)
        assert move.rollout.next_us is None or move.rollout.next_us > at_us
        rollout = move.rollout
        if move.kind != "quiet":
            story.append((move.kind, CALENDAR.day(at_us), (at_us - T0) // HOUR))
    raise AssertionError("the roll-out never ends")


def test_a_better_candidate_goes_all_the_way() -> None:
    rollout, story = _drive(lambda day: 0.02)
    kinds = [(kind, hours) for kind, _, hours in story]
    assert kinds == [("step", 24), ("step", 32), ("step", 40), ("promote", 48), ("end", 48 + 7 * 24)]
    assert rollout.outcome == "kept"


def test_a_harmful_candidate_is_refused_after_its_own_day() -> None:
    rollout, story = _drive(lambda day: -0.06)
    assert [kind for kind, _, _ in story] == ["refuse"]
    assert rollout.outcome == "refused"


def test_harm_that_shows_in_the_canary_stops_it() -> None:
    rollout, story = _drive(lambda day: -0.04 if day == "2013-04-15" else -0.3)
    assert [kind for kind, _, _ in story] == ["step", "step", "step", "abort"]
    assert story[-1][2] == 48  # when the block of the canary's day is closed, before the promotion
    assert rollout.outcome == "stopped"


def test_failing_guards_stop_the_canary_within_the_hour() -> None:
    rollout, story = _drive(lambda day: 0.02, guards=lambda step: BAD if step == 1 else OK)
    assert [(kind, hours) for kind, _, hours in story] == [("step", 24), ("step", 32), ("abort", 33)]
    assert rollout.outcome == "stopped"


def test_failing_guards_refuse_a_candidate_that_is_still_in_shadow() -> None:
    rollout, story = _drive(lambda day: 0.02, guards=lambda step: BAD)
    assert [kind for kind, _, _ in story] == ["refuse"] and rollout.outcome == "refused"


def test_failing_guards_roll_a_new_champion_back_between_its_blocks() -> None:
    calls = [0]

    def late(step: int) -> Verdict:
        calls[0] += 1
        return BAD if calls[0] > 28 else OK

    rollout, story = _drive(lambda day: 0.02, guards=late)
    assert [kind for kind, _, _ in story][-2:] == ["promote", "roll-back"]
    assert story[-1][2] - story[-2][2] in range(4, 24) and rollout.outcome == "rolled-back"


def test_a_canary_that_is_never_called_waits() -> None:
    silent = Verdict(outcome="unknown", check="canary", reason="it was not called once")
    calls = iter([OK, *[silent] * 18])
    _, story = _drive(lambda day: 0.02, guards=lambda step: next(calls, OK))
    assert [kind for kind, _, _ in story] == ["step", "stay", "stay", "step", "step", "promote", "end"]


def test_a_canary_that_is_never_called_keeps_the_champion_after_two_weeks() -> None:
    silent = Verdict(outcome="unknown", check="canary", reason="it was not called once")
    calls = iter([OK])
    rollout, story = _drive(lambda day: 0.02, guards=lambda step: next(calls, silent))
    assert {kind for kind, _, _ in story[1:-1]} == {"stay"} and story[-1][0] == "abort"
    assert rollout.outcome == "stopped" and 14 * 24 <= story[-1][2] <= 14 * 24 + 8


def test_too_few_labels_wait_one_more_block_and_then_keep_the_champion() -> None:
    rollout, story = _drive(lambda day: None)
    assert [(kind, hours) for kind, _, hours in story] == [("wait", 24), ("refuse", 48)]
    assert rollout.outcome == "refused"
    _, late = _drive(lambda day: None if day == "2013-04-15" else 0.02)
    assert [kind for kind, _, _ in late][:3] == ["wait", "step", "step"]


def test_a_worse_champion_is_rolled_back_at_five_blocks_and_not_before() -> None:
    promoted = "2013-04-17"
    rollout, story = _drive(lambda day: 0.02 if day < promoted else -0.049)
    kind, day, _ = story[-1]
    assert (kind, day) == ("roll-back", add_days(promoted, 5))
    assert rollout.outcome == "rolled-back"


def test_gross_harm_rolls_a_new_champion_back_after_two_days() -> None:
    promoted = "2013-04-17"
    _, story = _drive(lambda day: 0.02 if day < promoted else -0.06)
    assert story[-1][:2] == ("roll-back", add_days(promoted, 2))


def _forced() -> Rollout:
    fresh = msgspec.structs.replace(_rollout(), outcome=machine.OVERRIDDEN)
    return machine.watch(fresh, RECIPE, CALENDAR)


def test_a_version_put_past_the_gate_must_be_worse_by_less_to_be_rolled_back() -> None:
    rollout, story = _drive(lambda day: -0.04, begun=_forced())
    assert [kind for kind, _, _ in story] == ["roll-back"] and story[0][2] <= 72
    assert rollout.outcome == "rolled-back"
    assert _drive(lambda day: 0.0, begun=_forced())[0].outcome == "kept"


def test_days_without_labels_are_no_blocks_of_the_watch() -> None:
    """Five bad days of seven are needed; with four the new champion stays."""
    bad = {"2013-04-17", "2013-04-18", "2013-04-19", "2013-04-20"}
    rollout, _ = _drive(lambda day: 0.02 if day < "2013-04-17" else (-0.049 if day in bad else None))
    assert rollout.outcome == "kept"


def test_a_hold_stops_the_promotion_and_its_end_lets_it_go_on() -> None:
    until = T0 + 5 * DAY
    rollout, story = _drive(lambda day: 0.02, held=lambda at_us: at_us < until)
    kinds = [kind for kind, _, _ in story]
    assert kinds[:4] == ["held"] * 4
    assert kinds[-5:] == ["step", "step", "step", "promote", "end"]
    assert rollout.outcome == "kept"


def test_a_hold_does_not_stop_an_abort() -> None:
    calls = iter([OK])
    _, story = _drive(lambda day: 0.02, guards=lambda step: next(calls, BAD), held=lambda at_us: at_us > T0 + DAY)
    assert [kind for kind, _, _ in story] == ["step", "abort"]


def test_without_a_watch_the_promotion_is_the_end() -> None:
    rollout, story = _drive(lambda day: 0.02, recipe=WarmRecipe(watch_blocks=0))
    assert story[-1][0] == "promote"
    assert rollout.phase == "done"


def test_an_equal_new_champion_is_hardly_ever_rolled_back() -> None:
    draw, back = random.Random(3), 0
    for _ in range(300):
        noise = {add_days("2013-04-15", n): draw.gauss(0, 0.03) for n in range(30)}
        rollout, _ = _drive(lambda day, noise=noise: 0.02 if day < "2013-04-17" else noise[day])
        back += rollout.outcome == "rolled-back"
    assert back / 300 <= 0.02


# --- the gate ---------------------------------------------------------------------------------------------------------


def _book(
    gains: dict[int, Callable[[int], float]], days: int = 7, *, seen: dict[int, Callable[[int], int]] | None = None
) -> rules.Book:
    """A week in which version v gains `gains[v](day)` a row on the champion, 1; `seen[v](day)` rows of it."""
    blocks, pairs = [], []
    for number in range(days):
        day = add_days("2013-04-08", number)
        blocks.append(
            Block(
                day=day,
                version=SERVED,
                n=ROWS,
                n_labelled=ROWS,
                errors=0,
                loss_sum=LOSS * ROWS,
                score_sum=1.0,
                label_sum=1.0,
                label_square_sum=1.0,
            )
        )
        for version, gain in gains.items():
            n = (seen or {}).get(version, lambda number: ROWS)(number)
            if n:
                pairs.append(BlockPair(day=day, a=1, b=version, n=n, loss_a=LOSS * n, loss_b=(LOSS - gain(number)) * n))
    return rules.Book(blocks, pairs)


def _gate(book: rules.Book, challengers: list[int], recipe: WarmRecipe = RECIPE) -> Verdict:
    tested = rules.compare(recipe, book, 1, challengers)
    return rules.better(recipe, Better(metric="log_loss"), tested, "delay")


def test_the_newest_challenger_that_was_there_all_day_stands_for_the_recipe() -> None:
    """Version 3 was trained at noon of the fourth day: that day is scored by version 2, the later ones by 3."""
    seen = {2: lambda number: ROWS, 3: lambda number: 0 if number < 3 else (ROWS // 2 if number == 3 else ROWS)}
    book = _book({2: lambda number: 0.01, 3: lambda number: 0.02}, seen=seen)
    tested = rules.compare(RECIPE, book, 1, [2, 3])
    assert [pair.b for pair in tested.pairs] == [2, 2, 2, 2, 3, 3, 3]


def test_the_gate_passes_at_one_per_cent_of_the_loss() -> None:
    assert _gate(_book({2: lambda number: 0.0051}), [2]).outcome == "pass"
    assert _gate(_book({2: lambda number: 0.0049}), [2]).outcome == "fail"


def test_days_without_a_challenger_are_skipped_and_four_left_are_too_few() -> None:
    late = {2: lambda number: ROWS if number > 2 else 0}
    verdict = _gate(_book({2: lambda number: 0.1}, seen=late), [2])
    assert verdict.outcome == "fail"
    assert "4 days" in verdict.reason
    assert _gate(_book({2: lambda number: 0.1}, days=5), [2]).outcome == "pass"


def test_only_the_last_seven_closed_days_count() -> None:
    book = _book({2: lambda number: 1.0 if number < 7 else 0.0}, days=14)
    assert _gate(book, [2]).outcome == "fail"


@pytest.mark.parametrize(
    ("limit", "gain", "outcome"),
    [(0.6, 0.02, "pass"), (0.45, 0.02, "warn"), (0.45, 0.0, "warn"), (0.45, -0.02, "fail")],
)
def test_a_floor_does_not_keep_the_worse_model(limit: float, gain: float, outcome: str) -> None:
    book = _book({2: lambda number: gain})
    tested = rules.compare(RECIPE, book, 1, [2])
    verdict = rules.floor_on_days(Floor(metric="log_loss", limit=limit), book, tested, metric="log_loss")
    assert verdict.outcome == outcome


def test_the_losses_of_a_pair_stand_in_the_order_asked_for() -> None:
    book = _book({2: lambda number: 0.1})
    forward, back = book.pair("2013-04-08", 1, 2), book.pair("2013-04-08", 2, 1)
    assert forward is not None
    assert back is not None
    assert (forward.loss_a, forward.loss_b) == (back.loss_b, back.loss_a)


@pytest.mark.parametrize(("gain", "low", "high"), [(0.0, 0.0, 0.35), (-0.02, 0.0, 0.02), (0.03, 0.95, 1.0)])
def test_how_often_the_gate_passes(gain: float, low: float, high: float) -> None:
    """The stated rates, with the block spread of flights (.03): equal 1 week in 3 at most, worse by 4 % never."""
    draw, passed = random.Random(5), 0
    for _ in range(400):
        noise = [draw.gauss(0, 0.03) for _ in range(7)]
        passed += _gate(_book({2: lambda number, noise=noise: gain + noise[number]}), [2]).outcome == "pass"
    assert low <= passed / 400 <= high


def test_a_state_survives_its_own_encoding() -> None:
    rollout = _rollout()
    assert msgspec.convert(msgspec.to_builtins(rollout), Rollout) == rollout


def test_a_watch_of_a_version_that_was_replaced_takes_nothing_back() -> None:
    watched = msgspec.structs.replace(_rollout(), phase="watch", next_us=T0 + 5 * DAY)
    days, loss = [add_days("2013-04-15", n) for n in range(5)], LOSS * ROWS
    own = [Pair(day=day, n=ROWS, loss_a=loss, loss_b=2 * loss, b=3) for day in days]
    seen = Seen(name="delay", metric="log_loss", own=own)
    assert look(watched, RECIPE, CALENDAR, T0 + 5 * DAY, seen).kind == "roll-back"
    move = look(watched, RECIPE, CALENDAR, T0 + 5 * DAY, msgspec.structs.replace(seen, serves=False))
    assert (move.kind, move.rollout.phase, move.rollout.outcome) == ("quiet", "done", "replaced")


def test_a_canary_whose_steps_were_made_fewer_is_still_a_canary() -> None:
    far = msgspec.structs.replace(_rollout(), phase="canary", step=2)
    assert machine.share(far, WarmRecipe(canary=(0.1, 1.0))) == 1.0


# --- a person's leave -------------------------------------------------------------------------------------------------


def _approval(outcome: str) -> Verdict:
    return Verdict(outcome=outcome, check="approval", reason=outcome)  # type: ignore[arg-type]


def test_a_roll_out_asks_once_and_waits_until_a_person_has_answered() -> None:
    good = [Pair(day="2013-04-15", n=ROWS, loss_a=LOSS * ROWS, loss_b=(LOSS - 0.02) * ROWS, b=3)]
    begun, at_us = _rollout(), CALENDAR.close("2013-04-15")

    def next_kind(rollout: Rollout, outcome: str) -> str:
        seen = Seen(name="delay", metric="log_loss", own=good, guards=OK, approval=_approval(outcome))
        return look(rollout, RECIPE, CALENDAR, at_us, seen).kind

    asked = msgspec.structs.replace(begun, request="delay@ask-1")
    assert next_kind(begun, "unknown") == "ask"
    assert [next_kind(asked, outcome) for outcome in ("unknown", "pass", "fail")] == ["quiet", "step", "refuse"]
