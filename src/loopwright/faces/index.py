"""The commands that op rows name: room and help line, so that `lw --help` imports no room.

Written by tests/faces/write_index.py; a test compares it with the rows.
"""

COMMANDS: dict[str, tuple[str, str]] = {
    "fsck": ("artifacts", "Hash every stored byte again and follow every reference."),
}
