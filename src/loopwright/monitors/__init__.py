"""Monitors: daily blocks, windows, quality and alarms of an endpoint, from its prediction log and labels.

Knows no gate, no rollout and no trigger: it measures and tells, others decide.
"""
