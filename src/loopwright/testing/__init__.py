"""Testing: what an adapter of a port must keep, as tests that its maker runs. Imported by nothing in the package."""
