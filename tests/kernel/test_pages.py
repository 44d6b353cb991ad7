"""Pages: a list read piece by piece is the list, also when it grows meanwhile."""

import pytest

from loopwright.kernel.errors import Invalid
from loopwright.kernel.pages import MOST, page


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("limit", [1, 3, 7, 100])
def test_the_pieces_are_the_list(keyed: bool, limit: int) -> None:
    found, read, after = list(range(10, 17)), [], None
    key = (lambda item: f"k{item}") if keyed else None
    while True:
        piece = page(found, after=after, limit=limit, key=key)
        read += piece.items
        if len(found) < 9:
            found.append(found[-1] + 1)
        after = piece.next
        if after is None:
            break
    assert read == list(range(10, 10 + len(read))) and len(read) >= 7


def test_an_empty_list_is_one_empty_piece() -> None:
    assert page([]).items == [] and page([]).next is None


@pytest.mark.parametrize("after", ["x", "-1", "99", "", "9" * 40, "²"])
def test_what_is_no_token_is_refused(after: str) -> None:
    for key in (None, str):
        with pytest.raises(Invalid) as caught:
            page([1, 2, 3], after=after, key=key)
        assert caught.value.field == "after"


@pytest.mark.parametrize("limit", [0, -1, MOST + 1])
def test_a_limit_has_bounds(limit: int) -> None:
    with pytest.raises(Invalid) as caught:
        page([1], limit=limit)
    assert caught.value.field == "limit"
