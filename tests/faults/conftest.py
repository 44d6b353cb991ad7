"""The fault tests share the modules beside them, which the bench uses too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
