"""Whose address a request is from, by which guessing is slowed down."""

import pytest

from loopwright.faces.door import Gate
from loopwright.store.space import Space


def test_an_ipv6_network_is_one_guesser(space: Space) -> None:
    gate = Gate(space, hosts=[])
    for client, whose in (
        ("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"), ("fe80::1%eth0", "fe80::/64"), ("", ""),
    ):  # fmt: skip
        assert gate.address({"client": (client, 1)}, {}) == whose
    assert gate.address({}, {}) == ""


@pytest.mark.parametrize(
    ("told", "whose"),
    [
        ("192.0.2.7", "192.0.2.7"), ("10.0.0.1, 192.0.2.7", "192.0.2.7"), ("127.0.0.1,2001:db8::1", "2001:db8::/64"),
        ("unknown", "unknown"), ("x" * 1000, "x" * 100),
    ],
)  # fmt: skip
def test_a_proxy_is_believed_only_where_there_is_one(space: Space, told: str, whose: str) -> None:
    gate = Gate(space, hosts=[], behind_proxy=True)
    scope = {"client": ("10.9.9.9", 1)}
    assert gate.address(scope, {"x-forwarded-for": told}) == whose
    assert gate.address(scope, {}) == "10.9.9.9"
    gate.behind_proxy = False
    assert gate.address(scope, {"x-forwarded-for": told}) == "10.9.9.9"
