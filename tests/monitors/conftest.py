"""The made-up world of the loop's tests, for blocks, flags and windows."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "loop"))

from world import trained  # noqa: F401 - a fixture
