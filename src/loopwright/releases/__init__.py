"""Releases: gates and their verdicts, permits, roll-outs with shadow and canary, rollback, holds.

Decides what may be served; knows no trigger and starts no training by the clock.
"""
