"""The loop: what is due at which moment, and doing it, one decision a transaction.

Knows the rooms below; knows no foreign system and no way in.
"""
