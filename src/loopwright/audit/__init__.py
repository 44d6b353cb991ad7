"""Audit: whether the events are still those that were written, sealed in ranges and signed for keeping elsewhere.

Knows no noun of machine learning.
"""
