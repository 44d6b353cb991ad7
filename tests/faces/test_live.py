"""What a person who watches sees."""

from typing import Any

from loopwright import house
from loopwright.faces import live

Project = Any  # of conftest.py


def days(*pairs: tuple[float | None, float | None]) -> list[live.Day]:
    return [
        live.Day(day=f"2020-01-{n:02}", requests=10, labelled=10 * n, served=served, frozen=frozen, champion=1)
        for n, (served, frozen) in enumerate(pairs, 1)
    ]


def test_losses_are_pooled_by_rows() -> None:
    some = days((1.0, 2.0), (4.0, None))
    assert live.pooled(some, "served") == (1.0 * 10 + 4.0 * 20) / 30
    assert live.pooled(some, "frozen") == 2.0
    assert live.pooled([], "served") is None


def test_a_spark_spans_its_bounds() -> None:
    assert live.spark([0.0, None, 1.0, 0.5], 0.0, 1.0) == "▁ █▅"
    assert live.spark([2.0, 2.0], 2.0, 2.0) == "▁▁"
    assert live.gain_text(0.9, 1.0) == "-10.0%"
    assert live.gain_text(None, 1.0) == "-"


def test_lines_and_document_of_a_replayed_project(project: Project) -> None:
    project.lw("replay", "tiny", "--requests", "requests.parquet", "--labels", "labels.csv", "--until", "2020-01-29")
    said = project.lw("watch", "tiny", "--once").splitlines()
    assert sum(line.startswith("2020-01-2") and " labels " in line for line in said) == 5
    assert any("tiny@1 passed the gate" in line for line in said)
    found = project.json("watch", "tiny")
    assert (found["schema"], found["totals"]["days"], found["totals"]["requests"]) == ("lw.watch/1", 5, 25 + 4 * 30)
    assert found["totals"]["served"] == found["totals"]["frozen"]
    space = house.open(project.folder)
    try:
        feed = live.Feed(house, space, "tiny")
        shown: list[str] = []
        with live.Lines(feed, shown.append) as view:
            view.show()
            before = len(shown)
            view.show()
        assert before == len(shown) == len(said)
        screen = live.Screen(feed)
        from rich.console import Console

        console = Console(width=100)
        with console.capture() as captured:
            console.print(screen._draw("sends"))
        drawn = captured.get()
        for word in ("tiny, live", "as served", "frozen tiny@1", "145 requests", "sends"):
            assert word in drawn
    finally:
        space.close()
