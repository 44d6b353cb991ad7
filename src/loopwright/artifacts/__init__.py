"""Artifacts: immutable bytes by digest, trees of them, named lines of versions, and the state of the code.

Knows blobs and the ledger; knows no run, model or endpoint.
"""
