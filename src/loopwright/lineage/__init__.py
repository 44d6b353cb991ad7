"""Lineage: show, log, trace and events of any address; queries over what the rooms below keep."""
