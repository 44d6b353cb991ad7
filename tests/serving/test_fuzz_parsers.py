"""Bytes that others wrote, made to hurt: a short turn of what bench/fuzz.py does a million times."""

import random
from collections.abc import Iterator

import pytest
from fuzz_inputs import mutate
from fuzz_parsers import TARGETS, Target
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_harness import Wire

TURNS = 4000
# Inputs that once broke a parser, by its name.
BROKE: list[tuple[str, bytes]] = [
    ("spool", b"\x05\x00\x00\x00\xd4\x94\x11\xf1\x82\x02\xa2no"),  # a whole frame that holds no list
    ("spool", b"\x08\x00\x00\x00\xca-\x8f\xfc\x81\x02\xa2no\x81\x01\t"),  # a whole frame with more behind its value
    ("spool", b"\x01\x00\x00\x00v\x1b\xd4\x01g"),  # a whole frame that holds a number
    ("events", b'{"kind":1e-400l", "number": 3}'),
    ("events", b'[{"versions": 1}]'),
    ("events", b'{"versions": [11e999]}'),
    ("json", b'{"inputs":[{"name":"X","datatype":["FP32"],"shape":[1,3],"data":[1,2,3]}]}'),
    ("control", b"POST /v2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"),  # gone before its body
]


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    made = TARGETS[request.param]()
    yield made
    made.close()


def test_what_once_broke_a_parser(target: Target) -> None:
    for name, data in BROKE:
        if name == target.name:
            target.feed(random.Random(0), data)
    target.settle()


def test_mutated_inputs(target: Target) -> None:
    rng = random.Random(20)
    for _ in range(TURNS):
        data = mutate(rng, target.seeds, target.words)
        target.feed(rng, target.mend(rng, data) if rng.random() < 0.5 else data)
    target.settle()


def test_inputs_of_words(target: Target) -> None:
    pieces = st.one_of(st.sampled_from([*target.seeds, *target.words]), st.binary(max_size=12))

    @settings(max_examples=120, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(pieces, max_size=8).map(b"".join), st.integers(0, 3))
    def hold(data: bytes, seed: int) -> None:
        rng = random.Random(seed)
        target.feed(rng, data)
        target.feed(rng, target.mend(rng, data))
        target.settle()

    hold()


def test_the_seeds_are_sound_so_that_what_lies_behind_the_first_check_is_reached(target: Target) -> None:
    for data in target.seeds:
        target.feed(random.Random(1), data)
        assert target.name != "http" or set(Wire().statuses(data)) <= {100, 200}, data
    target.settle()
