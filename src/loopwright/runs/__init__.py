"""Runs: one execution each, with its parameters, inputs, outputs, metrics, files and environment.

Knows artifacts; knows no step, table or model.
"""
