"""The calibrated drift test: each figure of a window against its own spread between reference windows.

One knob: the share of drift-free windows in which any column may be named. `docs/guides/drift.md` has the measurements.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from loopwright.checks import special
from loopwright.checks.profiles import Column, Profile, Scheme

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]

HORIZONS = (1, 2, 4, 8, 16)
BUDGET = 0.01
MARGIN = 0.05  # standard deviations that nobody wants to hear of
PERIOD = 7
MIN_REFERENCE = 14
_CAP = 4  # standard deviations that one broken window may weigh in longer horizons
_CLEAR = 1e-4
JOINT = "correlations"


class Windows(msgspec.Struct, frozen=True):
    """Windows in order of time, each with the number of its day, by which weekdays and neighbours are known."""

    days: Sequence[int]
    profiles: Sequence[Profile]


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """How one column differs from the reference.

    Args:
        what: level, spread, shape, shares, nulls, outside, new or correlations.
        p: of the column over all that is looked at; small is drift.
        effect: in standard deviations of the reference; for nulls, outside and new a difference of shares.
        before, now: a median, the share of a level, or the share of rows.
        level: whose share moved most.
        windows: how many of the last windows show it best.
    """

    column: str
    what: str
    p: float
    effect: float
    before: float | None
    now: float | None
    level: str | None = None
    windows: int = 1


class _Part(NamedTuple):
    """The p-values of one aspect of the columns by horizon, and its mean deviations."""

    p: "Floats"
    shift: "Floats"


def drifted(
    scheme: Scheme, reference: Windows, recent: Windows, *, budget: float = BUDGET, margin: float = MARGIN
) -> list[Moved]:
    """The columns whose last windows differ from the reference by more than the margin, the clearest first.

    Holm's rule over the columns keeps the chance to name any in a window without drift at the budget. Predictive
    t tests against the spread between reference windows, its variance moderated across columns (Smyth 2004), the
    null a smallest effect (Dette and Wied 2016), horizons and aspects combined by ACAT (Liu and Xie 2020).

    Args:
        scheme: by which all profiles were made.
        reference: at least 14 windows without drift.
        recent: windows since then, of which the last is judged; up to 16 count.
        budget: the share of windows without drift in which anything may be named.
        margin: standard deviations that are not called drift.
    """
    tests = _Tests(scheme, reference, recent, margin)
    found = [*tests.columns(), *tests.joint()]
    order = sorted(range(len(found)), key=lambda i: (found[i].p, i))
    out = []
    for rank, i in enumerate(order):
        if found[i].p > budget / (len(found) - rank):
            break
        out.append(found[i])
    return out


class _Tests:
    def __init__(self, scheme: Scheme, reference: Windows, recent: Windows, margin: float) -> None:
        import numpy as np

        self.scheme, self.margin, self.m = scheme, margin, len(reference.profiles)
        profiles = [*reference.profiles, *recent.profiles[-HORIZONS[-1] :]]
        self.days = np.array([*reference.days, *recent.days[-HORIZONS[-1] :]])
        self.n = np.array([float(max(found.n, 1)) for found in profiles])
        self.counts = np.stack([found.counts for found in profiles]).astype(np.float64)
        self.products = np.stack([found.products for found in profiles])
        self.horizons = [h for h in HORIZONS if h <= len(profiles) - self.m]

    def columns(self) -> list[Moved]:
        import numpy as np

        parts = self.scheme.parts()
        rare = np.array([place for _, place in parts])
        nulls = self.counts[:, rare]
        common = nulls[: self.m].sum(0) / self.n[: self.m].sum() > 0.005
        rooted = self._series(2 * np.arcsin(np.sqrt((nulls + 0.375) / (self.n[:, None] + 0.75))), self.margin)
        rooted = _Part(np.where(common, rooted.p, 0.5), rooted.shift)
        aspects = {
            "nulls": _Part(self._rare(nulls, 0.002), rooted.shift),
            "many nulls": rooted,
            "far": _Part(self._rare(self.counts[:, rare + 1], 0.001), rooted.shift),
        }
        moments, shares = self._moments(), self._shares()
        out: list[Moved] = []
        for j, (column, place) in enumerate(parts):
            mine = {name: part.p[:, j] for name, part in aspects.items()}
            if column.levels is None:
                mine |= {name: part.p[:, place] for name, part in moments.items()}
            else:
                own = shares.p[:, self._owners == j]
                mine["shares"] = acat(own, 1)
            p = float(acat(np.concatenate([*mine.values()]), 0))
            best = {name: float(found.min()) for name, found in mine.items()}
            # a moved level moves spread and shape of the ranks too: the plainest clear aspect is told
            what = next((name for name in mine if best[name] < _CLEAR), min(mine, key=lambda name: best[name]))
            h = self.horizons[int(mine[what].argmin())]
            out.append(self._moved(column, place, p, what, h))
        return out

    def _moments(self) -> dict[str, _Part]:
        """Location, spread and shape of each numeric column's ranks, by the place of its counts.

        Source: Neyman's smooth test, the first three orthonormal polynomials of the middle rank.
        """
        import numpy as np

        width = self.counts.shape[1]
        taken = [(column, place) for column, place in self.scheme.parts() if column.levels is None]
        figures = np.zeros((3, len(self.counts), len(taken)))
        for i, (column, place) in enumerate(taken):
            bins = self.counts[:, place + 2 : place + column.width]
            basis = _polynomials(bins[: self.m].sum(0))
            figures[:, :, i] = np.einsum("kb,wb->kw", basis, bins) / np.maximum(bins.sum(1), 1)
        out = {}
        for k, name in enumerate(("level", "spread", "shape")):
            part = self._series(figures[k], self.margin * (1 if k == 0 else 1.5))
            p, shift = np.ones((len(self.horizons), width)), np.zeros((len(self.horizons), width))
            where = [place for _, place in taken]
            p[:, where], shift[:, where] = part.p, part.shift
            out[name] = _Part(p, shift)
        self.moments = out
        return out

    def _shares(self) -> _Part:
        """The share of each level among the known ones, in its standard deviations."""
        import numpy as np

        blocks, owners = [np.zeros((len(self.counts), 0))], []
        for j, (column, place) in enumerate(self.scheme.parts()):
            if column.levels is None:
                continue
            bins = self.counts[:, place + 2 : place + column.width]
            share = bins / np.maximum(bins.sum(1), 1)[:, None]
            usual = bins[: self.m].sum(0) / max(bins[: self.m].sum(), 1)
            blocks.append((share - usual) / np.sqrt(np.maximum(usual * (1 - usual), 1e-6)))
            owners += [j] * bins.shape[1]
        self._owners = np.array(owners, dtype=np.int64)
        self.shares = self._series(np.concatenate(blocks, axis=1), self.margin)
        return self.shares

    def joint(self) -> list[Moved]:
        """The correlations of the normal scores of the numeric columns, together one more column."""
        import numpy as np

        size = len(self.scheme.joint)
        if size < 2:
            return []
        square = np.zeros((len(self.products), size + 1, size + 1))
        upper = np.triu_indices(size + 1)
        square[:, upper[0], upper[1]] = self.products / self.n[:, None]
        mean = square[:, 0, 1:]
        sd = np.sqrt(np.maximum(np.einsum("wii->wi", square)[:, 1:] - mean**2, 1e-12))
        pairs = np.triu_indices(size, 1)
        covariance = square[:, 1:, 1:][:, pairs[0], pairs[1]] - mean[:, pairs[0]] * mean[:, pairs[1]]
        score = np.arctanh(np.clip(covariance / (sd[:, pairs[0]] * sd[:, pairs[1]]), -0.999, 0.999))
        part = self._series(score, 2 * self.margin)
        h, pair = np.unravel_index(int(part.p.argmin()), part.p.shape)
        one, other = (self.scheme.joint[side[pair]].name for side in pairs)
        before, shift = float(score[: self.m, pair].mean()), float(part.shift[h, pair])
        p = float(acat(acat(part.p, 1), 0))
        told = Moved(
            column=JOINT, what=JOINT, p=p, effect=shift, before=math.tanh(before), now=math.tanh(before + shift)
        )
        return [msgspec.structs.replace(told, level=f"{one}, {other}", windows=self.horizons[int(h)])]

    def _series(self, figures: "Floats", margin: float) -> _Part:
        """Two-sided predictive t tests of a family of figures (windows x figures) over the horizons."""
        if not figures.shape[1]:
            return _Part(figures[: len(self.horizons)], figures[: len(self.horizons)])
        import numpy as np

        fitted = _Family(figures[: self.m], self.days[: self.m], float((1 / self.n[: self.m]).mean()))
        rest = fitted.rest(figures[self.m :], self.days[self.m :])
        shift, scale, free = [], [], []
        cap = _CAP * np.sqrt(fitted.variance)
        for h in self.horizons:
            shift.append((np.clip(rest[-h:], -cap, cap) if h > 1 else rest[-h:]).mean(0))
            error, freedom = fitted.error(h)
            scale.append(error)
            free.append(freedom)
        far = np.abs(np.stack(shift))
        tails = special.t_sf(np.stack([far - margin, far + margin]) / np.stack(scale), np.stack(free))
        return _Part(np.minimum(tails.sum(0), 1), np.stack(shift))

    def _rare(self, counts: "Floats", margin: float) -> "Floats":
        """One-sided tests of rare counts: the overdispersed beta-binomial predictive of the reference."""
        import numpy as np

        ref, n = counts[: self.m], self.n[: self.m, None]
        total, rows = ref.sum(0), float(n.sum())
        rate = (total + 0.5) / (rows + 1)
        pearson = ((ref - n * rate) ** 2 / np.maximum(n * rate * (1 - rate), 1e-9)).sum(0) / (self.m - 1)
        phi = np.maximum(np.where(total < 5, 1.0, pearson), 1.0)
        late, size = counts[self.m :], self.n[self.m :]
        usual = total / rows * size[:, None]
        capped = np.minimum(late, usual + _CAP * np.sqrt(phi * usual * (1 - total / rows)) + 3)
        out = np.ones((len(self.horizons), counts.shape[1]))
        for row, h in enumerate(self.horizons):
            asked = float(size[-h:].sum())
            over = (capped if h > 1 else late)[-h:].sum(0) - margin * asked
            for j in np.flatnonzero(over > 0).tolist():
                k, trials = math.ceil(over[j] / phi[j]), round(asked / float(phi[j]))
                a, b = 0.5 + total[j] / phi[j], 0.5 + (rows - total[j]) / phi[j]
                out[row, j] = max(special.beta_binomial_sf(k, max(trials, k), float(a), float(b)), 1e-300)
        return out

    def _moved(self, column: Column, place: int, p: float, what: str, h: int) -> Moved:
        """A column's difference in figures that a person reads."""
        import numpy as np

        row = self.horizons.index(h)
        old, new = self.counts[: self.m].sum(0), self.counts[-h:].sum(0)
        asked, known = self.n[-h:].sum(), self.n[: self.m].sum()
        if what in ("nulls", "many nulls", "far"):
            at = place + (what == "far")
            before, now = float(old[at] / known), float(new[at] / asked)
            name = "new" if what == "far" and column.levels is not None else "outside" if what == "far" else "nulls"
            return Moved(column=column.name, what=name, p=p, effect=now - before, before=before, now=now, windows=h)
        span = slice(place + 2, place + column.width)
        if what != "shares":
            was, stands = (_median(column, counts[span]) for counts in (old, new))
            effect = float(self.moments[what].shift[row, place])
            return Moved(column=column.name, what=what, p=p, effect=effect, before=was, now=stands, windows=h)
        assert column.levels is not None
        mine = np.flatnonzero(self._owners == [c.name for c, _ in self.scheme.parts()].index(column.name))
        best = int(self.shares.p[row, mine].argmin())
        before, now = (float(counts[span][best] / max(counts[span].sum(), 1)) for counts in (old, new))
        own = column.width - 3
        level = column.levels[best] if best < own else "other levels"
        effect = float(self.shares.shift[row, mine[best]])
        told = Moved(column=column.name, what=what, p=p, effect=effect, before=before, now=now)
        return msgspec.structs.replace(told, level=level, windows=h)


class _Family:
    """Figures of one kind over reference windows (windows x figures): mean, season, persistence, spread, tails."""

    def __init__(self, figures: "Floats", days: "Floats", sampling: float) -> None:
        import numpy as np

        m = len(figures)
        self.mean = figures.mean(0)
        rest = figures - self.mean
        self.share, self.season, self.per = np.zeros(figures.shape[1]), np.zeros((PERIOD, figures.shape[1])), m / PERIOD
        phase = days % PERIOD
        counts = np.bincount(phase, minlength=PERIOD)[:, None]
        if m >= 3 * PERIOD and counts.min() >= 2:
            self.season = np.stack([rest[phase == p].mean(0) for p in range(PERIOD)])
            between = (counts * self.season**2).sum(0) / (PERIOD - 1)
            within = ((rest - self.season[phase]) ** 2).sum(0) / (m - PERIOD)
            self.share = np.clip(1 - np.maximum(within, 1e-30) / np.maximum(between, 1e-30), 0, 1)
            rest = rest - self.share * self.season[phase]
        freedom = m - 1 - self.share * (PERIOD - 1)
        spread = (rest**2).sum(0) / freedom
        ok = spread > 1e-24
        self.persistence = _persistence(rest, ok, days)
        self.shared = _mean_variance(m, self.persistence)
        wide = spread / np.clip(1 - self.shared, 0.05, 1) * (1 - 1 / m)
        least = np.maximum(freedom * (1 - self.persistence**2) / (1 + self.persistence**2), 2.0)
        ratio, self.freedom = squeeze(wide / sampling, least)
        self.variance = ratio * sampling
        fourth = (rest / np.sqrt(np.maximum(spread, 1e-30))) ** 4
        usual = 3 * (m - 1) / (m + 1)
        own = np.clip(fourth.mean(0) * (m / (m - 1)) ** 2 - usual, 0, None) * ok
        pooled = max(float(fourth[:, ok].mean()) - usual, 0.0) if ok.any() else 0.0
        self.tails = (m * own + 20 * pooled) / (m + 20)

    def rest(self, figures: "Floats", days: "Floats") -> "Floats":
        """What mean and season leave of later windows."""
        left: Floats = figures - self.mean - self.share * self.season[days % PERIOD]
        return left

    def error(self, h: int) -> tuple["Floats", "Floats"]:
        """The standard error of the mean of the next h windows, the reference's own included, and its freedom.

        Heavy tails between windows (storms, outages) cost degrees of freedom.
        """
        import numpy as np

        season = self.share / self.per / min(h, PERIOD)
        error = np.sqrt(self.variance * (_mean_variance(h, self.persistence) + self.shared + season))
        return error, 1 / (1 / self.freedom + 1 / (4 + 6 * h / np.maximum(self.tails, 1e-3)))


def squeeze(ratio: "Floats", freedom: "Floats") -> tuple["Floats", "Floats"]:
    """Variance ratios of a family drawn together by what they share, and their degrees of freedom.

    Source: Smyth 2004, SAGMB 3(1), section 6.2: an inverse chi-square prior, fitted by the moments of the logarithm.
    """
    import numpy as np

    ratio = np.maximum(ratio, 1e-3)
    log = np.log(ratio) - special.polygamma(0, freedom / 2) + np.log(freedom / 2)
    excess = float(log.var(ddof=1) - special.polygamma(1, freedom / 2).mean()) if len(log) > 1 else 0.0
    if excess > 1e-6:
        prior = 2 * special.trigamma_inverse(excess)
        centre = math.exp(float(log.mean() + special.polygamma(0, np.array([prior / 2]))[0]) - math.log(prior / 2))
    else:
        prior, centre = 1e6, math.exp(float(log.mean()))
    return (prior * centre + freedom * ratio) / (prior + freedom), np.minimum(freedom + prior, freedom.sum())


def acat(p: "Floats", axis: int) -> "Floats":
    """P-values combined, whatever hangs together among them. Source: the Cauchy combination, Liu and Xie 2020."""
    import numpy as np

    p = np.clip(p, 1e-16, 0.99)
    mean = np.where(p < 1e-10, 1 / (p * math.pi), np.tan((0.5 - p) * math.pi)).mean(axis)
    combined: Floats = np.where(mean > 1e10, 1 / (np.maximum(mean, 1) * math.pi), 0.5 - np.arctan(mean) / math.pi)
    return combined


def _persistence(rest: "Floats", ok: "Floats", days: "Floats") -> "Floats":
    """The correlation of a window with the next, each drawn to the family's mean."""
    import numpy as np

    m, own = len(rest), np.zeros(rest.shape[1])
    near = np.flatnonzero(np.diff(days) == 1)
    own[ok] = (rest[near + 1] * rest[near])[:, ok].sum(0) / (rest**2)[:, ok].sum(0)
    own = own + (1 + 4 * own) / m
    centre, spread = float(np.clip(own.mean(), 0, 0.9)), max(float(own.var()) - 1 / m, 0.0)
    weight = spread / (spread + 1 / m)
    found: Floats = np.clip(weight * own + (1 - weight) * centre, 0, 0.9)
    return found


def _mean_variance(h: int, r: "Floats") -> "Floats":
    """The variance of the mean of h terms of an autoregression with variance 1."""
    import numpy as np

    k = np.arange(1, h)[:, None]
    variance: Floats = (1 + 2 * ((1 - k / h) * r**k).sum(0)) / h
    return variance


def _polynomials(counts: "Floats") -> "Floats":
    """Three polynomials of the middle rank (3 x bins), orthonormal under the counts."""
    import numpy as np

    share = counts / max(counts.sum(), 1)
    x = 2 * (np.cumsum(share) - share / 2) - 1
    basis = np.stack([x, 0.5 * (3 * x**2 - 1), 0.5 * (5 * x**3 - 3 * x)])
    for k in range(3):
        basis[k] -= (basis[k] * share).sum()
        for before in basis[:k]:
            basis[k] -= (basis[k] * before * share).sum() * before
        basis[k] /= math.sqrt(max(float((basis[k] ** 2 * share).sum()), 1e-12))
    return basis


def _median(column: Column, counts: "Floats") -> float | None:
    """The median of binned values, evenly spread within a bin."""
    import numpy as np

    total = counts.sum()
    if not total:
        return None
    edges = np.array([column.edges[0], *column.edges, column.edges[-1]])
    run = np.cumsum(counts)
    i = int(np.searchsorted(run, total / 2))
    inside = (total / 2 - (run[i] - counts[i])) / counts[i]
    return float(edges[i] + (edges[i + 1] - edges[i]) * inside)
