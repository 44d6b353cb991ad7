"""Errors as documents, and back."""

import pytest

from loopwright.kernel import errors
from loopwright.kernel.errors import LoopwrightError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LoopwrightError)]


class Odd(errors.Invalid):
    kind = "odd"


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_rebuilt_from_its_document(kind: type[LoopwrightError]) -> None:
    error = kind("it is so", code="a.b", hint="lw show")
    again = errors.rebuilt(error.to_dict())
    assert type(again) is kind
    assert again.to_dict() == error.to_dict()


def test_what_a_kind_adds_comes_back() -> None:
    assert errors.rebuilt(errors.GateFailed("no", verdict={"a": 1}).to_dict()).to_dict()["verdict"] == {"a": 1}
    assert errors.rebuilt(errors.Unavailable("no", retry_after_s=7).to_dict()).to_dict()["retry_after_s"] == 7
    assert errors.rebuilt(errors.Unsupported("no", extra="s3").to_dict()).to_dict()["extra"] == "s3"


def test_a_room_s_own_error_comes_back_as_its_kind() -> None:
    again = errors.rebuilt(Odd("no", field="x").to_dict())
    assert (type(again), again.code, again.field) == (errors.Invalid, "odd", "x")


def test_a_document_of_something_else_is_an_error_of_the_fallback() -> None:
    assert type(errors.rebuilt({}, "not-found")) is errors.NotFound
    assert type(errors.rebuilt({"kind": ["x"], "message": None})) is LoopwrightError
