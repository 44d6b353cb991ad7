"""Frames that the tests of flavours fit models on: numbers with gaps, texts, booleans and categories."""

from typing import Any

import numpy as np
import pandas as pd

NUMBERS = ["wind", "hour", "speed"]


def frame(rows: int = 800, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    out = pd.DataFrame(
        {
            "wind": random.gamma(2, 5, rows),
            "dest": [f"D{k:02d}" for k in random.integers(0, 20, rows)],
            "hour": random.integers(0, 24, rows),
            "wet": random.random(rows) < 0.3,
            "gate": pd.Categorical(random.integers(3, 9, rows)),
            "speed": random.normal(size=rows),
        }
    )
    out.loc[::7, "wind"] = np.nan
    out.loc[::11, "dest"] = None
    return out


def late(x: pd.DataFrame) -> Any:
    """Two classes."""
    noise = np.random.default_rng(9).normal(size=len(x))
    return (x["wind"].fillna(0) / 10 + x["hour"] / 12 + (x["dest"] == "D03") * 2 + noise > 2.5).astype(int)


def minutes(x: pd.DataFrame) -> Any:
    """A value."""
    return x["wind"].fillna(0) * 100 + x["hour"] + x["speed"]
