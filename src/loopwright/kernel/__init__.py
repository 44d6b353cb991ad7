"""Ground floor: errors, ids, times, clock, canonical hashing, events, verdicts, ops, settings.

Knows the standard library, msgspec and BLAKE3; knows no room above it.
"""
