"""Models: packages with a signature and sample rows, native files of their framework, and the runtime that scores.

Knows no endpoint, route or request; never reads or writes a pickle.
"""
