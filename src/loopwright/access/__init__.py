"""Access: who may do what, and the permits that guarded moves need.

Knows no noun of machine learning.
"""
