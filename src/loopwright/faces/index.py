"""The commands that op rows name: room and help line, so that `lw --help` imports no room.

Written by tests/faces/write_index.py; a test compares it with the rows.
"""

COMMANDS: dict[str, tuple[str, str]] = {
    "add": ("data", "Make a version of a data file and say what is in it."),
    "events": ("lineage", "List events after a sequence number, oldest first."),
    "features": ("data", "Write the request rows of a period to a file, as an asker would have known them."),
    "fsck": ("artifacts", "Hash every stored byte again and follow every reference."),
    "log": ("lineage", "List what happened to an address, newest first."),
    "predictions": ("serving", "Write the predictions of an endpoint, with their labels, to a Parquet file."),
    "show": ("lineage", "Show what an address names."),
    "trace": ("lineage", "Say where a prediction came from."),
}
