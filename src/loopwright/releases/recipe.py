"""The rules of the warm recipe as pure functions over block tables; docs/guides/policy.md numbers them 1 to 7."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from loopwright.checks import slices, verdicts
from loopwright.checks.gains import Gain, Pair, gain
from loopwright.checks.scores import auc_of_histograms
from loopwright.checks.sequence import confidence_sequence
from loopwright.checks.verdicts import RISING
from loopwright.kernel.verdict import Verdict
from loopwright.monitors.model import SERVED, Block, BlockPair
from loopwright.releases.model import Better, Fast, Floor, GateSpec, Sliced, Slices
from loopwright.releases.policy import WarmRecipe


class Book:
    """Blocks and pairs of an endpoint, by day and version."""

    def __init__(self, blocks: Iterable[Block], pairs: Iterable[BlockPair], sliced: Sliced | None = None) -> None:
        self.sliced = sliced
        self._blocks = {(block.day, block.version): block for block in blocks}
        self._pairs = {(pair.day, pair.a, pair.b): pair for pair in pairs}

    @property
    def days(self) -> list[str]:
        """The days that are closed, oldest first."""
        return sorted({day for day, _ in self._blocks})

    def versions(self, day: str) -> list[int]:
        """The versions that have a block on a day, in their order."""
        return sorted(version for when, version in self._blocks if when == day and version != SERVED)

    def block(self, day: str, version: int) -> Block | None:
        """A version on a day; 0 = what was served."""
        return self._blocks.get((day, version))

    def pair(self, day: str, a: int, b: int) -> Pair | None:
        """Two versions on the rows of a day that both scored; losses in the order asked for."""
        found = self._pairs.get((day, min(a, b), max(a, b)))
        if found is None:
            return None
        loss_a, loss_b = (found.loss_a, found.loss_b) if a < b else (found.loss_b, found.loss_a)
        return Pair(day=day, n=found.n, loss_a=loss_a, loss_b=loss_b, b=b)

    def pairs(self, a: int, b: int, *, since: str, until: str = "~") -> list[Pair]:
        """The days in [since, until] on which both scored something, oldest first."""
        found = [self.pair(day, a, b) for day in self.days if since <= day <= until]
        return [pair for pair in found if pair is not None and pair.n]

    def covered(self, pair: Pair) -> float:
        """The share of a day's labelled requests that a pair holds."""
        served = self.block(pair.day, SERVED)
        return pair.n / served.n_labelled if served is not None and served.n_labelled else 0.0


class Tested(msgspec.Struct, frozen=True, kw_only=True):
    """The days on which a recipe could be compared with the champion, each with the challenger that stood for it."""

    champion: int
    pairs: tuple[Pair, ...]

    @property
    def gain(self) -> Gain | None:
        """What the days say together."""
        return gain(self.pairs)

    @property
    def stood(self) -> dict[str, int]:
        """By day, the version that stood for the recipe."""
        return {pair.day: pair.b for pair in self.pairs}


def compare(recipe: WarmRecipe, book: Book, champion: int, challengers: Sequence[int]) -> Tested:
    """Point 3: each of the last closed days, scored by the newest challenger that was there for the whole of it.

    A challenger was there when it scored nearly all (`cover`) of the day's labelled requests, all of them asked after
    it was trained: then it was trained before that day's requests began and has seen none of them.

    Args:
        challengers: versions trained later than the champion, oldest first.
    """
    pairs = []
    for day in book.days[-recipe.window_blocks :]:
        for challenger in reversed(challengers):
            pair = book.pair(day, champion, challenger)
            if pair is not None and book.covered(pair) >= recipe.cover:
                pairs.append(pair)
                break
    return Tested(champion=champion, pairs=tuple(pairs))


PRIOR_BLOCKS = 10  # how many blocks the spread that is to be expected is worth


def spread(recipe: WarmRecipe, book: Book, champions: Mapping[str, int], *, prior: float) -> tuple[float, int]:
    """The spread of paired day blocks a row between a champion and the newest other version, and how many there were.

    Each champion's days are taken about their own mean, so that what separates two models is no spread.

    Args:
        champions: by day, the version that held the place.
        prior: the spread that is to be expected.
    """
    by_champion: dict[int, list[Pair]] = {}
    for day, champion in sorted(champions.items()):
        pairs = [
            pair for v in book.versions(day) if v != champion and (pair := book.pair(day, champion, v)) is not None
        ]
        if pairs and book.covered(pairs[-1]) >= recipe.cover:
            by_champion.setdefault(champion, []).append(pairs[-1])
    around, count = PRIOR_BLOCKS * prior**2, 0
    for kept in by_champion.values():
        found = gain(kept)
        if found is not None and len(found.blocks) > 1:
            around += math.fsum((x - found.per_row) ** 2 for x in found.blocks)
            count += len(found.blocks) - 1
    return math.sqrt(around / (PRIOR_BLOCKS + count)), count


def better(recipe: WarmRecipe, check: Better, tested: Tested, name: str) -> Verdict:
    """Points 3 and 4: enough days, and the total gain a share of the champion's loss."""
    by = recipe.min_gain if check.by is None else check.by
    who = _who(tested.champion, name)
    found = verdicts.better(check.metric, tested.gain, by=by, min_days=recipe.min_blocks, who=who)
    evidence = {**found.evidence, "champion": tested.champion, "stood": tested.stood}
    return msgspec.structs.replace(found, evidence=evidence)


def _who(champion: int, name: str) -> str:
    return "what was served" if champion == SERVED else f"{name}@{champion}"


def by_slices(recipe: WarmRecipe, check: Slices, tested: Tested, sliced: Sliced, name: str) -> Verdict:
    """The recipe's paired days by slice; what was measured must cover all the days that `better` looks at."""
    stood = tested.stood if len(tested.pairs) >= recipe.min_blocks else {}
    if sliced.failed or (stood and sliced.champion != tested.champion) or not stood.items() <= sliced.stood.items():
        reason = f"slices could not be measured: {sliced.failed or 'the days are others than were looked at'}"
        return Verdict(outcome="unknown", check="slices", reason=reason)
    kept = [msgspec.structs.replace(one, pairs=[p for p in one.pairs if p.day in stood]) for one in sliced.slices]
    who = _who(tested.champion, name)
    return slices.judge(kept, sliced.few, who, worse=check.worse, min_n=check.min_n, min_days=recipe.min_blocks)


def floor_on_days(check: Floor, book: Book, tested: Tested, *, metric: str) -> Verdict:
    """The floor on the recipe's own paired days: it warns where the champion was under it too, and no better."""
    if check.metric not in RISING and check.metric != metric:
        reason = f"days are compared by {metric}; a floor on {check.metric} needs lw.better({check.metric!r})"
        return Verdict(outcome="fail", check="floor", reason=reason)
    own = _score(check, book, tested, [(pair.day, pair.b, pair.loss_b) for pair in tested.pairs])
    n, where = sum(pair.n for pair in tested.pairs), f"{len(tested.pairs)} paired days"
    found = verdicts.floor(check.metric, check.limit, own, n=n, where=where)
    if found.outcome != "fail" or own is None:
        return found
    theirs = _score(check, book, tested, [(pair.day, tested.champion, pair.loss_a) for pair in tested.pairs])
    if theirs is None or (theirs > own if check.metric in RISING else theirs < own):
        return found
    reason = f"{found.reason}; the champion's was {theirs:.4f} on the same days"
    evidence = {**found.evidence, "champion_value": round(theirs, 6)}
    return msgspec.structs.replace(found, outcome="warn", reason=reason, evidence=evidence)


def _score(check: Floor, book: Book, tested: Tested, days: list[tuple[str, int, float]]) -> float | None:
    """The score of some versions on some days together: (day, version, summed loss)."""
    if check.metric in RISING:
        blocks = [book.block(day, version) for day, version, _ in days]
        return auc_of_histograms([b.histogram for b in blocks if b is not None and b.histogram is not None])
    n = sum(pair.n for pair in tested.pairs)
    return sum(loss for _, _, loss in days) / n if n else None


def fast_on_days(check: Fast, book: Book, tested: Tested) -> Verdict:
    """The latency of the challengers that stood for the recipe against the champion's, on the same days."""
    calls, own, other = 0, [], []
    for pair in tested.pairs:
        mine, theirs = book.block(pair.day, pair.b), book.block(pair.day, tested.champion)
        if mine is not None and mine.p95_us is not None:
            calls += mine.n
            own.append(mine.p95_us)
            other += [theirs.p95_us] if theirs is not None and theirs.p95_us is not None else []
    return fast(check, calls, max(own, default=None), max(other, default=None))


def fast(check: Fast, calls: int, p95_us: int | None, champion_p95_us: int | None) -> Verdict:
    """A latency check with the settings of a gate."""
    return verdicts.fast(
        calls, p95_us, champion_p95_us, limit_us=check.limit_us, times=check.times, min_calls=check.min_calls
    )


def own_shadow(recipe: WarmRecipe, metric: str, pairs: Sequence[Pair], champion: str) -> Verdict:
    """Points 5 and 6: whether a candidate's own blocks show harm."""
    return verdicts.no_harm(metric, gain(pairs), limit=recipe.harm_limit, min_rows=recipe.min_labels, who=champion)


def watch(recipe: WarmRecipe, pairs: Sequence[Pair], old: str) -> Verdict:
    """Point 7: whether the new champion is worse than the old one, by the confidence sequence over day blocks.

    Args:
        pairs: days since the promotion, the old champion first.
    """
    found = gain([pair for pair in pairs if pair.n >= recipe.min_labels])
    interval = None
    if found is not None:
        interval = confidence_sequence(
            found.blocks, alpha=recipe.alpha, past_sd=recipe.past_sd, best_at=max(recipe.watch_blocks, 1)
        )
    return verdicts.not_worse(interval, min_blocks=recipe.rollback_min_blocks, who=old)


def fast_check(gate: GateSpec) -> Fast:
    """The latency check of a gate, or its default."""
    return next((check for check in gate.checks if isinstance(check, Fast)), Fast())


def better_check(gate: GateSpec, metric: str) -> Better:
    """The comparison of a gate, or that of the policy: no candidate goes without one."""
    return next((check for check in gate.checks if isinstance(check, Better)), Better(metric=metric))


def figures(verdict: Verdict) -> dict[str, Any]:
    """The part of a verdict's evidence that two equal replays must agree on."""
    keep = ("days", "n", "gain", "gain_per_row", "champion_loss", "interval", "value", "stood", "blocks", "low", "mean")
    return {key: verdict.evidence[key] for key in (*keep, "high") if key in verdict.evidence}
