"""What a guard window counts against a candidate: only what the champion did better on the same request."""

import msgspec
import numpy as np

from loopwright.monitors.rows import Rows
from loopwright.monitors.windows import GuardWindow, WindowAsk, compare

NAN = float("nan")


def _rows(champion: list[float], candidate: list[float], bad: list[int], took: tuple[list[float], list[float]]) -> Rows:
    n = len(champion)
    failed = np.array([place in bad for place in range(n)])
    return Rows(
        at_us=np.arange(n),
        label=np.full(n, NAN),
        served=np.array(champion),
        scores={1: np.array(champion), 2: np.array(candidate)},
        bad={1: np.isnan(np.array(champion)), 2: failed},
        latency_us={1: np.array(took[0]), 2: np.array(took[1])},
    )


def _ask(task: str = "binary") -> WindowAsk:
    return WindowAsk(
        action_id="a", endpoint="e", since_us=0, until_us=99, champion=1, candidate=2, task=task, slow_us=500, times=3
    )


def test_a_failure_that_both_share_and_an_answer_out_of_range() -> None:
    took = ([10.0] * 5, [10.0] * 5)
    found = _rows([0.1, 0.2, NAN, 0.4, 0.5], [0.1, NAN, NAN, 1.5, NAN], [1, 2], took)
    assert compare(found, _ask()) == GuardWindow(requests=5, calls=4, alone=2, paired=5, slow=0)


def test_a_call_is_slow_only_beside_a_quick_one() -> None:
    found = _rows([0.1] * 4, [0.1] * 4, [], ([10.0, 400.0, 10.0, NAN], [400.0, 1000.0, 600.0, 9000.0]))
    assert compare(found, _ask()).slow == 1


def test_a_regression_is_held_against_the_champions_range() -> None:
    champion = [float(value) for value in range(30)]
    wild = [*champion[:-1], 1000.0]
    took = ([10.0] * 30, [10.0] * 30)
    assert compare(_rows(champion, wild, [], took), _ask("regression")).alone == 1
    assert compare(_rows(champion, champion, [], took), _ask("regression")).alone == 0
    assert compare(_rows(wild[:5], wild[:5], [], ([1.0] * 5, [1.0] * 5)), _ask("regression")).alone == 0


def test_a_version_that_was_not_called() -> None:
    found = _rows([0.1], [0.1], [], ([1.0], [1.0]))
    assert compare(found, msgspec.structs.replace(_ask(), candidate=9)) == GuardWindow(requests=1)
