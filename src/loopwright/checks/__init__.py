"""Checks: pure functions from figures to intervals and verdicts.

They know no Space, no endpoint and no clock; light figures take plain floats, rows take numpy arrays.
"""
