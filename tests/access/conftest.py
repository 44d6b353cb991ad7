"""Passwords cost little in these tests; what they cost in use has a test of its own."""

import pytest

from loopwright.access import passwords


@pytest.fixture
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_N", 1 << 10)
    monkeypatch.setattr(passwords, "_P", 1)
