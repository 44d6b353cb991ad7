"""Makes the files of the tiny project: 30 asks a day for 40 days; the outcome is known six hours later."""

import csv
import random
from datetime import datetime, timedelta
from pathlib import Path

FIRST, DAYS, A_DAY = datetime(2020, 1, 1), 40, 30
NIGHT = datetime(2020, 1, 25, 4)


def main() -> None:
    draw = random.Random(3)
    rows = []
    for number in range(DAYS * A_DAY):
        at = FIRST + timedelta(days=number // A_DAY, minutes=number % A_DAY * 40 + 60)
        x, shop = draw.random(), draw.choice(["north", "south"])
        good = int(x + draw.gauss(0, 0.3) + (0.2 if shop == "north" else 0) > 0.6)
        rows.append((f"ask-{number}", at.isoformat(), round(x, 6), shop, good, (at + timedelta(hours=6)).isoformat()))
    write("asks.csv", ["id", "asked_at", "x", "shop"], [row[:4] for row in rows])
    write("outcomes.csv", ["id", "good", "known_at"], [(row[0], row[4], row[5]) for row in rows])
    write("labels.csv", ["id", "label", "known_at"], [(row[0], row[4], row[5]) for row in rows])


def write(name: str, head: list[str], rows: list[tuple]) -> None:
    with (Path(__file__).parent / name).open("w", newline="") as out:
        csv.writer(out).writerows([head, *rows])


if __name__ == "__main__":
    main()
