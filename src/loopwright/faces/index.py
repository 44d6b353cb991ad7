"""The commands that op rows name: room and help line, so that `lw --help` imports no room.

Written by tests/faces/write_index.py; a test compares it with the rows.
"""

COMMANDS: dict[str, tuple[str, str]] = {
    "add": ("data", "Make a version of a data file and say what is in it."),
    "alarms": ("monitors", "List the alarms of an endpoint, each one episode with its explanation."),
    "approvals": ("releases", "List what was to be approved, oldest first."),
    "approve": ("releases", "Approve a version that waits for a person, or say no."),
    "audit": ("audit", "Say what of the events is sealed."),
    "backup": ("project", "Copy the project into a folder while it goes on."),
    "check": ("releases", "Hold a version against its endpoint's gate."),
    "deploy": ("releases", "Bring a version through the gate."),
    "drift": ("monitors", "Show by closed day which columns differ from what the champion was trained on, and how."),
    "erase": ("audit", "Erase a subject everywhere."),
    "events": ("lineage", "List events after a sequence number, oldest first."),
    "features": ("data serving", "Rows, check features."),
    "feeds": ("monitors", "List the faults of an endpoint's feeds."),
    "fsck": ("artifacts", "Read every stored byte again and follow every reference."),
    "gc": (
        "artifacts",
        "Take away blobs that nothing refers to and files that killed processes left, once they are older "
        "than the grace.",
    ),
    "log": ("lineage", "List what happened to an address, newest first."),
    "notify": ("loop", "Send a test message to a channel of loopwright.toml."),
    "pause": ("releases", "Stop training, gate and promotion of an endpoint until it is resumed."),
    "predictions": ("serving", "Write the predictions of an endpoint, with their labels, to a Parquet file."),
    "pull": (
        "lineage",
        "Copy a version and all that it was made from out of the remote, under the numbers that they have "
        "there.",
    ),
    "push": ("lineage", "Copy versions and all that they were made from to the remote."),
    "reproduce": ("lineage", "Make a version again from its record, and compare the bytes."),
    "resume": ("releases", "Let training, gate and promotion of an endpoint go on."),
    "rollback": ("releases", "Go back to the last version that served 100 %."),
    "run": ("project", "Run a step of the project file, by default the one that trains the endpoint's model."),
    "show": ("lineage", "Show what an address names."),
    "status": ("project", "Say where the project stands."),
    "tokens": ("access", "List, create, revoke tokens."),
    "trace": ("lineage", "Say where a prediction came from."),
    "users": ("access", "List, invite, grant, revoke, disable, enable users."),
}
