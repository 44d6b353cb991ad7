"""Serving: endpoints and their routes, the workers that answer, the prediction log and its labels.

Knows no pipeline and no monitor; HTTP and foreign protocols stand in `protocols/`.
"""
