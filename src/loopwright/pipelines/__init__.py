"""Pipelines: steps, the fingerprint of their code, the cache, and the durable queue of jobs.

Knows runs and artifacts; knows no model, endpoint or way in.
"""
