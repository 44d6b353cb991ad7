"""The process behind `lw` and `python -m loopwright`."""

import sys
from typing import Any


def house() -> Any:
    """The house, imported when a command needs it."""
    from loopwright import house

    return house


def main() -> int:
    """Run the command line of this process."""
    from loopwright.faces import cli

    return cli.main(house)


if __name__ == "__main__":
    sys.exit(main())
