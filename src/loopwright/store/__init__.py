"""Store: the database, the blobs, the ledger and the clock of a Space.

Knows no noun of machine learning; the only room that imports a database driver.
"""
