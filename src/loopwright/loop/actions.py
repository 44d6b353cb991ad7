"""Doing what is due: a job where work is long, then one transaction with the decision, its event and its state.

Every action has an id made of what it is and its moment; done twice, it counts once.
"""

import msgspec

from loopwright.artifacts import names
from loopwright.kernel import canonical
from loopwright.kernel.times import HOUR, add_days, format_duration, format_time
from loopwright.kernel.verdict import Verdict
from loopwright.loop import jobs, model, moments, queries
from loopwright.loop.model import Cycle, Due
from loopwright.monitors import blocks, feeds, windows
from loopwright.monitors import queries as monitors
from loopwright.monitors.model import Block
from loopwright.releases import approvals, evidence, gates, guards, machine, measured, moves, service, work
from loopwright.releases import desk as desks
from loopwright.releases import model as releases_model
from loopwright.releases import queries as releases
from loopwright.releases.desk import Desk
from loopwright.releases.model import Rollout, Sliced
from loopwright.releases.work import JobFailed, Submit
from loopwright.store import ledger
from loopwright.store.database import Tx
from loopwright.store.space import Space

ACTOR = "loop"
_SHORT_DAY_US = HOUR  # the rhythm counts calendar days, and where clocks are changed a day lacks an hour


def perform(space: Space, due: Due, submit: Submit | None) -> None:
    """Do one thing that is due."""
    with space.read() as tx:
        desk = desks.find(tx, due.endpoint)
    if due.work == "close":
        _close(space, desk, due.key, submit)
    elif due.work == "feeds":
        _feeds(space, desk, due.at_us, submit)
    elif due.work == "look":
        _look(space, desk, due, submit)
    else:
        _cycle(space, desk, due.at_us, submit)


def _close(space: Space, desk: Desk, day: str, submit: Submit | None) -> None:
    with space.read() as tx:
        champion = releases.champion(tx, desk.name)
        known = releases.trainings(tx, desk.name)
    calendar = desk.calendar
    ask = blocks.BlockAsk(
        endpoint=desk.name,
        day=day,
        since_us=calendar.start(day),
        until_us=calendar.start(add_days(day, 1)),
        close_us=calendar.close(day),
        last_close_us=calendar.close(add_days(day, -1)),
        metric=desk.metric,
        task=desk.spec.task,
        champion=champion or 0,
        trained_us={str(training.version): training.trained_us for training in known},
    )
    action_id = canonical.digest(["close", desk.name, day])
    try:
        work.do(space, work.Task(action_id=action_id, kind=blocks.CLOSE, args=msgspec.to_builtins(ask)), submit)
    except JobFailed as error:
        reason = error.message
        space.write(lambda tx: blocks.give_up(tx, ask, reason))


def _feeds(space: Space, desk: Desk, at_us: int, submit: Submit | None) -> None:
    """Look at the feeds; what needs the log or the history is a job, and one that fails leaves it to the next look."""
    if not feeds.needs_job(space, desk.name, desk.calendar.close(desk.calendar.closed_by(at_us)), at_us):
        feeds.look(space, desk.name, at_us)
        return
    args = {"endpoint": desk.name, "at_us": at_us}
    action_id = canonical.digest(["feeds", desk.name, at_us])
    try:
        work.do(space, work.Task(action_id=action_id, kind=feeds.FEEDS, args=args), submit)
    except JobFailed as error:
        reason = error.message
        space.write(lambda tx: feeds.give_up(tx, desk.name, at_us, reason))


def _look(space: Space, desk: Desk, due: Due, submit: Submit | None) -> None:
    with space.read() as tx:
        rollout = releases.rollout(tx, due.key)
    if rollout is None or rollout.next_us != due.at_us:
        return
    window: windows.GuardWindow | None = None
    who: tuple[str, ...] = ()
    if machine.guarded(rollout, desk.recipe, desk.calendar, due.at_us):
        window = _window(space, desk, rollout, due.at_us, submit)
    if desk.spec.approve and not rollout.request:
        run = names.get(space, desk.spec.model, rollout.candidate).run
        who = tuple(approvals.askers(space, rollout.actor, run))

    def decide(tx: Tx) -> None:
        now = releases.rollout(tx, due.key)
        if now is None or now.next_us != due.at_us:
            return
        if not releases.once(tx, canonical.digest(["look", now.id, due.at_us]), desk.name, "look"):
            return
        book = gates.whole_book(tx, desk, now.first_day)
        seen = machine.Seen(
            name=desk.spec.model,
            metric=desk.metric,
            own=book.pairs(now.champion, now.candidate, since=now.first_day, until=desk.calendar.closed_by(due.at_us)),
            guards=_operations(tx, desk, now, window, due.at_us),
            held=bool(releases.holds(tx, desk.name)),
            serves=releases.champion(tx, desk.name) == now.candidate,
            approval=approvals.standing(tx, desk, now, due.at_us),
        )
        move = machine.look(now, desk.recipe, desk.calendar, due.at_us, seen)
        moves.apply(tx, desk, msgspec.structs.replace(move, askers=who), due.at_us)

    space.write(decide)


def _window(
    space: Space, desk: Desk, rollout: Rollout, at_us: int, submit: Submit | None
) -> windows.GuardWindow | None:
    """What the candidate's operations were since the last look; None when it could not be measured."""
    with space.read() as tx:
        looks, past = releases.guard_looks(tx, rollout.id), _past(tx, desk, rollout)
    action_id = canonical.digest(["window", rollout.id, rollout.phase, rollout.since_us, at_us])
    ask = windows.WindowAsk(
        action_id=action_id,
        endpoint=desk.name,
        since_us=looks[-1].until_us if looks else rollout.opened_us,
        until_us=at_us,
        champion=rollout.champion,
        candidate=rollout.candidate,
        task=desk.spec.task,
        slow_us=guards.slow_above(past),
        times=guards.TIMES,
    )
    task = work.Task(action_id=action_id, kind=windows.WINDOW, args=msgspec.to_builtins(ask))
    try:
        return msgspec.convert(work.do(space, task, submit), windows.GuardWindow)
    except JobFailed:
        return None


def _past(tx: Tx, desk: Desk, rollout: Rollout) -> list[Block]:
    """The champion's own blocks before a roll-out began."""
    until = add_days(desk.calendar.day(rollout.opened_us), -1)
    return monitors.blocks(tx, desk.name, until=until, version=rollout.champion)[-guards.PAST_DAYS :]


def _operations(tx: Tx, desk: Desk, rollout: Rollout, window: windows.GuardWindow | None, at_us: int) -> Verdict | None:
    if window is None and not machine.guarded(rollout, desk.recipe, desk.calendar, at_us):
        return None
    if window is not None:
        releases.put_guard_look(tx, guards.counted(rollout, window, at_us))
    looks, past = releases.guard_looks(tx, rollout.id), _past(tx, desk, rollout)
    return guards.operations(desk.recipe, looks, past, rollout.since_us)


def _cycle(space: Space, desk: Desk, at_us: int, submit: Submit | None) -> None:
    with space.read() as tx:
        found = queries.at(tx, desk.name, at_us)
    cycle = found or space.write(lambda tx: _begin(tx, desk, at_us))
    with space.read() as tx:
        desk = desks.find(tx, desk.name)  # as it was measured when the cycle began
    if cycle.state == "train":
        cycle = _train(space, desk, cycle, submit)
    if cycle.state == "gate" and cycle.version is not None:
        version = names.get(space, desk.spec.model, cycle.version)
        package = gates.package(space, version)
        with space.read() as tx:
            before = releases.pool(tx, desk.name, desk.recipe.pool)
        older = [gates.package(space, names.get(space, desk.spec.model, number)) for number in before]
        judged = [(one, evidence.sliced(space, desk, one, submit)) for one in (package, *older)]
        space.write(lambda tx: _gate(tx, desk, judged, at_us))


def _begin(tx: Tx, desk: Desk, at_us: int) -> Cycle:
    """Take up the cycle of a moment, or say why it is skipped: missed, held, cooling down or over the cap."""
    found = queries.at(tx, desk.name, at_us)
    if found is not None:
        return found
    outcome, reason = _against(tx, desk, at_us)
    days = monitors.closed_days(tx, desk.name)[-measured.DAYS :]
    if days:
        measured.take(tx, desk.name, desk.recipe, gates.whole_book(tx, desk, days[0].day))
    if not outcome:
        cycle = Cycle(endpoint=desk.name, moment_us=at_us, state="train")
        queries.put(tx, cycle)
        return cycle
    if outcome == "held":
        seq = moves.say_held(tx, desk, "the training and the gate", at_us)
    else:
        data = {**_said(desk, at_us), "why": outcome, "reason": reason}
        seq = ledger.append(tx, ACTOR, model.TRIGGER_SKIPPED, desk.subject, data, at_us=at_us)
    cycle = Cycle(endpoint=desk.name, moment_us=at_us, state="done", outcome=outcome, cause=seq)
    queries.put(tx, cycle)
    return cycle


def _against(tx: Tx, desk: Desk, at_us: int) -> tuple[str, str]:
    recipe, first = desk.recipe, releases.first_reign(tx, desk.name)
    if first is not None and moments.next_cycle(desk, first.since_us, at_us) <= tx.now_us():
        return "missed", "a later one is due already"
    if releases.holds(tx, desk.name):
        return "held", ""
    before = queries.trainings(tx, desk.name, at_us - recipe.cap_us + _SHORT_DAY_US)
    if before and at_us - before[-1] < recipe.cooldown_us - _SHORT_DAY_US:
        return "cooling", f"the last one was less than {format_duration(recipe.cooldown_us)} ago"
    if len(before) >= recipe.cap:
        return "capped", f"there were {len(before)} in the last {format_duration(recipe.cap_us)}"
    return "", ""


def _said(desk: Desk, at_us: int) -> dict[str, object]:
    return {"endpoint": desk.name, "model": desk.spec.model, "until": format_time(at_us)}


def _train(space: Space, desk: Desk, cycle: Cycle, submit: Submit | None) -> Cycle:
    action_id = canonical.digest(["train", desk.name, cycle.moment_us])
    ask = jobs.TrainAsk(endpoint=desk.name, until_us=cycle.moment_us, action_id=action_id)
    task = work.Task(action_id=action_id, kind=jobs.TRAIN, args=msgspec.to_builtins(ask))
    try:
        made = work.do(space, task, submit)
    except JobFailed as error:
        reason = error.message
        return space.write(lambda tx: _failed(tx, desk, cycle, reason))
    return space.write(lambda tx: _trained(tx, desk, cycle, int(made["version"])))


def _failed(tx: Tx, desk: Desk, cycle: Cycle, reason: str) -> Cycle:
    data = {**_said(desk, cycle.moment_us), "reason": reason}
    seq = ledger.append(tx, ACTOR, model.TRAINING_FAILED, desk.subject, data, at_us=cycle.moment_us)
    done = msgspec.structs.replace(cycle, state="done", outcome="failed", cause=seq)
    queries.put(tx, done)
    return done


def _trained(tx: Tx, desk: Desk, cycle: Cycle, version: int) -> Cycle:
    now = queries.at(tx, desk.name, cycle.moment_us)
    if now is None or now.state != "train":
        return cycle if now is None else now
    known = any(training.version == version for training in releases.trainings(tx, desk.name))
    kind = model.UNCHANGED if known else model.TRAINED
    data = {**_said(desk, cycle.moment_us), "version": version}
    seq = ledger.append(tx, ACTOR, kind, desk.subject, data, at_us=cycle.moment_us)
    done = msgspec.structs.replace(
        cycle,
        state="done" if known else "gate",
        outcome="unchanged" if known else "trained",
        version=version,
        cause=seq,
    )
    queries.put(tx, done)
    if not known:
        releases.put_training(tx, desk.name, version, cycle.moment_us, refit=True)
        moves.reroute(tx, desk)
    return done


def _gate(tx: Tx, desk: Desk, judged: list[tuple[gates.Package, Sliced | None]], at_us: int) -> None:
    """Hold the week's refit against the gate and, when it is refused, the champions of before that go along."""
    package = judged[0][0]
    cycle = queries.at(tx, desk.name, at_us)
    if cycle is None or cycle.state != "gate":
        return
    queries.put(tx, msgspec.structs.replace(cycle, state="done"))
    if releases.holds(tx, desk.name):
        moves.say_held(tx, desk, f"the gate of {desk.spec.model}@{package.version}", at_us, cause=cycle.cause)
        return
    going = releases.under_way(tx, desk.name)
    if going is not None:
        reason = f"{desk.spec.model}@{going.candidate} is on its way ({going.phase})"
        data = {**_said(desk, at_us), "candidate": package.version, "busy": going.candidate, "reason": reason}
        ledger.append(tx, ACTOR, model.GATE_SKIPPED, desk.subject, data, cause=cycle.cause, at_us=at_us)
        return
    digest = names.find(tx, desk.spec.model, package.version).digest
    back = releases.quarantined(tx, desk.name, package.version, digest)
    if back is not None:
        reason = f"{desk.spec.model}@{back.version}, of the same bytes, was rolled back"
        data = {**_said(desk, at_us), "candidate": package.version, "busy": back.version, "reason": reason}
        ledger.append(tx, ACTOR, model.GATE_SKIPPED, desk.subject, data, cause=cycle.cause, at_us=at_us)
        return
    for candidate, sliced in judged:
        result = gates.later(tx, desk, candidate, sliced=sliced)
        kind = releases_model.GATE_PASSED if result.verdict.passed else releases_model.GATE_REFUSED
        data = gates.event_data(desk, result)
        seq = ledger.append(tx, ACTOR, kind, desk.subject, data, cause=cycle.cause, at_us=at_us)
        if result.verdict.passed:
            service.open_rollout(tx, desk, candidate.version, seq, at_us=at_us)
            moves.reroute(tx, desk)
            return
