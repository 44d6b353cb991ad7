"""Notes: what people typed, kept apart from the ledger, which holds only its digest."""
