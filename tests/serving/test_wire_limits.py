"""What no client can do to a worker: say two things at once, take up more than its share, or wait for ever."""

import gzip
import json
import tracemalloc
import zlib

import pytest
from wire_harness import Wire, head, infer, values

from loopwright.serving.protocols.limits import Limits

CHUNKED = ("Transfer-Encoding: chunked",)
DELAY = "/v2/models/delay/infer"
AMBIGUOUS: dict[str, tuple[bytes, int]] = {
    "length and chunks": (head("POST", DELAY, "Content-Length: 5", *CHUNKED) + b"0\r\n\r\n", 400),
    "chunks and length": (head("POST", DELAY, *CHUNKED, "Content-Length: 5") + b"0\r\n\r\n", 400),
    "two lengths": (head("POST", DELAY, "Content-Length: 2", "Content-Length: 3") + b"{}", 400),
    "two equal lengths": (head("POST", DELAY, "Content-Length: 2", "Content-Length: 2") + b"{}", 400),
    "a list of lengths": (head("POST", DELAY, "Content-Length: 2, 2") + b"{}", 400),
    "a signed length": (head("POST", DELAY, "Content-Length: +2") + b"{}", 400),
    "a negative length": (head("POST", DELAY, "Content-Length: -2") + b"{}", 400),
    "a length in hex": (head("POST", DELAY, "Content-Length: 0x2") + b"{}", 400),
    "a length past 64 bits": (head("POST", DELAY, "Content-Length: 99999999999999999999"), 400),
    "chunked twice": (head("POST", DELAY, *CHUNKED, *CHUNKED) + b"0\r\n\r\n", 400),
    "another coding too": (head("POST", DELAY, "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", 501),
    "chunked not last": (head("POST", DELAY, "Transfer-Encoding: chunked, gzip") + b"0\r\n\r\n", 400),
    "almost chunked": (head("POST", DELAY, "Transfer-Encoding: xchunked") + b"0\r\n\r\n", 501),
    "identity": (head("POST", DELAY, "Transfer-Encoding: identity") + b"{}", 501),
    "chunked for an old client": (b"POST " + DELAY.encode() + b" HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
    "space before the colon": (head("POST", DELAY, "Transfer-Encoding : chunked"), 400),
    "vertical tab": (head("POST", DELAY, "Transfer-Encoding:\x0bchunked"), 400),
    "a folded header": (head("GET", "/v2", "X: a\r\n b"), 400),
    "a folded length": (head("POST", DELAY, "Content-Length:\r\n 2") + b"{}", 400),
    "bare line feeds": (b"GET /v2 HTTP/1.1\nHost: localhost\n\n", 400),
    "a bare line feed in a header": (b"GET /v2 HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n", 400),
    "a bare carriage return": (b"GET /v2 HTTP/1.1\r\nHost: localhost\rX: y\r\n\r\n", 400),
    "a NUL in a value": (head("GET", "/v2", "X: a\0b"), 400),
    "a NUL in a name": (head("GET", "/v2", "X\0: b"), 400),
    "a header without a name": (head("GET", "/v2", ": b"), 400),
    "a header before the first": (b"GET /v2 HTTP/1.1\r\n Host: localhost\r\n\r\n", 400),
    "a chunk size past 64 bits": (head("POST", DELAY, *CHUNKED) + b"fffffffffffffffff\r\nx\r\n", 400),
    "a negative chunk": (head("POST", DELAY, *CHUNKED) + b"-1\r\nx\r\n", 400),
    "a chunk size with 0x": (head("POST", DELAY, *CHUNKED) + b"0x1\r\nx\r\n", 400),
    "a chunk with a bare line feed": (head("POST", DELAY, *CHUNKED) + b"1\nx\r\n0\r\n\r\n", 400),
    "an extension with a bare line feed": (head("POST", DELAY, *CHUNKED) + b"1;a=b\nx\r\n0\r\n\r\n", 400),
    "a chunk longer than it says": (head("POST", DELAY, *CHUNKED) + b"1\r\nxx0\r\n\r\n", 400),
    "two hosts": (head("GET", "/v2", "Host: localhost"), 400),
    "no host": (b"GET /v2 HTTP/1.1\r\n\r\n", 400),
    "two types": (head("POST", DELAY, "Content-Type: a/b", "Content-Type: a/b", "Content-Length: 0"), 400),
    "HTTP/2": (b"GET /v2 HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /v2\r\n\r\n", 505),
    "another protocol": (b"SETUP rtsp://localhost RTSP/1.0\r\nHost: localhost\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 200, 400),
    "a tab for a space": (b"GET\t/v2 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "a byte that no path has": (b"GET /v2\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "another host in the target": (head("GET", "http://evil.example/v2"), 400),
    "another scheme": (head("GET", "ftp://localhost/v2"), 400),
    "a tunnel": (head("CONNECT", "localhost:1"), 400),
    "the server itself": (head("OPTIONS", "*"), 400),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_can_be_read_in_two_ways_is_refused_and_ends_the_connection(name: str) -> None:
    sent, status = AMBIGUOUS[name]
    wire = Wire()
    assert wire.statuses(sent + infer(values())) == [status]
    assert wire.engine.asked == []
    pieces = [bytes([byte]) for byte in sent]
    assert Wire().statuses(*pieces) == [status]


def test_what_is_odd_but_clear_is_answered() -> None:
    chunks = b"1;name=value\r\n{\r\n1\r\n}\r\n0\r\nHost: evil.example\r\nX: y\r\n\r\n"
    wire = Wire()
    assert wire.statuses(head("POST", "/v2/repository/index", *CHUNKED) + chunks + head()) == [200, 200]
    assert wire.statuses(head("GET", "HTTP://LocalHost/v2"), b"\r\n\r\n" + head("GET", "http://localhost/v2")) == [
        200,
        200,
    ]
    assert wire.statuses(head("GET", "/v2/models/del%61y")) == [200]
    assert wire.statuses(b"GET /v2 HTTP/1.0\r\n\r\n") == [200]
    assert wire.statuses(infer(values(), "Content-Length : 1")) == [400]
    assert wire.statuses(infer(b" " * 3 + json.dumps(values()).encode() + b"\r\n")) == [200]


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/v2/models/..",
            "/v2/models/%2e%2e",
            "/v2/models/%252e%252e",
            "/v2/models/..%2fdelay",
            "/v2/models/%2Fdelay",
        ),
        *("/v2/models/..%5cdelay", "/v2/models/delay%00", "/v2/models/delay%2561", "/v2/models/del%ffay", "//v2"),
        *(
            "/v2//models/delay",
            "/v2/models/delay/../delay",
            "/v2/./models/delay",
            "/v2/models/delay;v=1",
            "/v2#/health",
        ),
        *("/V2", "/v2/models/DELAY", "/v2/models/delay/versions/01", "/v2/models/delay/versions/1%2f"),
    ],
)
def test_paths_are_decoded_once_and_name_what_is_there_or_nothing(path: str) -> None:
    got = Wire().say(head("GET", path))
    assert got.startswith(b"HTTP/1.1 404") and b"evil" not in got


def test_forms_of_other_sites_are_no_bodies() -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded; charset=utf-8", "Multipart/Form-Data; boundary=x"):
        wire = Wire()
        assert wire.statuses(infer(values(), f"Content-Type: {kind}")) == [415]
        assert wire.engine.asked == []
    for kind in ("application/json", "application/json; charset=utf-8", "application/octet-stream"):
        assert Wire().statuses(infer(values(), f"Content-Type: {kind}")) == [200]


def test_answers_are_json_that_no_browser_takes_for_a_page() -> None:
    for sent in (head(), head("GET", "/<script>alert(1)</script>"), b"<script>\r\n\r\n", infer(b"<script>")):
        got = Wire().say(sent)
        assert b"Content-Type: application/json\r\nX-Content-Type-Options: nosniff" in got
        assert b"<script>" not in got and b"Traceback" not in got and b"/src/" not in got


def test_heads_have_an_end() -> None:
    many = [f"X-{number}: y" for number in range(100)]
    wire = Wire()
    assert wire.statuses(head("GET", "/v2", *many[:99])) == [200]
    assert wire.statuses(head("GET", "/v2", *many)) == [431]
    assert wire.statuses(head("GET", "/v2", "X: " + "y" * 65_000)) == [200]
    assert wire.statuses(head("GET", "/v2", "X: " + "y" * 66_000)) == [431]
    assert wire.statuses(b"GET /v2 HTTP/1.1\r\nX: ", *[b"y" * 10_000] * 8) == [431]
    assert wire.statuses(b"GET /", *[b"y" * 1000] * 100) == [431]
    assert wire.statuses(head("GET", "/v2?" + "y" * 9000)) == [414]
    trailers = b"".join(b"X-%d: y\r\n" % number for number in range(200))
    assert wire.statuses(head("POST", DELAY, *CHUNKED) + b"0\r\n" + trailers + b"\r\n") == [431]
    # A head that begins in the same bytes as many whole requests is not blamed for these.
    assert wire.statuses(head() * 2000 + b"GET /v2 HTTP/1.1\r\n", b"Host: localhost\r\n\r\n") == [200] * 2001


def test_bodies_have_an_end_however_they_are_cut() -> None:
    wire = Wire(Limits(body_bytes=1000, chunks=50, framing_bytes=2000, head_bytes=1000))
    start = head("POST", DELAY, *CHUNKED)
    assert wire.statuses(head("POST", DELAY, "Content-Length: 1001")) == [413]
    assert wire.statuses(start, *[b"64\r\n" + b" " * 100 + b"\r\n"] * 11) == [413]
    assert wire.statuses(start, b"1\r\n \r\n" * 60) == [413]
    assert wire.statuses(start, *[b"1;" + b"x" * 400 + b"\r\n \r\n"] * 20) == [413]
    assert wire.statuses(start, b"1;", *[b"x" * 400] * 20) == [413]
    assert wire.statuses(start, b"fffffff0\r\n", *[b" " * 400] * 20) == [413]
    assert wire.statuses(head("POST", "/nowhere", "Content-Length: 1000"), b" " * 1000) == [404]


def test_tiny_chunks_take_no_more_memory_than_their_bytes() -> None:
    wire, piece = Wire(), b"1\r\n \r\n" * 1000
    connection, transport = wire.connect()
    connection.data_received(head("POST", DELAY, *CHUNKED))
    tracemalloc.start()
    for _ in range(16):
        connection.data_received(piece)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert used < 100_000
    connection.data_received(piece)
    assert bytes(transport.sent).startswith(b"HTTP/1.1 413")


def test_compressed_bodies_are_read_within_the_same_limits() -> None:
    data = json.dumps(values()).encode()
    wire = Wire()
    for kind, packed in (
        ("gzip", gzip.compress(data)),
        ("x-gzip", gzip.compress(data)),
        ("deflate", zlib.compress(data)),
    ):
        assert wire.statuses(infer(packed, f"Content-Encoding: {kind}")) == [200]
    assert wire.statuses(infer(data, "Content-Encoding: identity")) == [200]
    for kind in ("br", "gzip, gzip", "zstd", "chunked"):
        assert wire.statuses(infer(data, f"Content-Encoding: {kind}")) == [415]
    whole = gzip.compress(data)
    for broken in (data, whole[:-3], whole + b"x", whole + whole, b"", whole[:12]):
        assert wire.statuses(infer(broken, "Content-Encoding: gzip")) == [400]


def test_a_bomb_does_not_go_off() -> None:
    bomb = gzip.compress(b" " * (256 << 20), 9)
    wire = Wire()
    tracemalloc.start()
    assert wire.statuses(infer(bomb, "Content-Encoding: gzip")) == [413]
    assert wire.statuses(infer(gzip.compress(bytes(4 << 20)), "Content-Encoding: gzip")) == [413]
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_a_client_that_asks_and_does_not_read_is_not_answered_on_and_on() -> None:
    wire = Wire(Limits(unread_s=5))
    connection, transport = wire.connect(reads=False)
    asks = head("GET", "/v2/models/delay") * 5000
    connection.data_received(asks)
    wire.loop.turn()
    assert transport.paused and 64 << 10 < len(transport.sent) < 1 << 20
    count = transport.drained().count(b"HTTP/1.1 200")
    for _ in range(100):
        wire.loop.turn()
        count += transport.drained().count(b"HTTP/1.1 200")
    assert count == 5000 and not transport.paused
    connection.data_received(asks)
    connection.expire(connection.since_s + 4)
    assert not transport.closing
    connection.expire(connection.since_s + 60)
    assert transport.closing


def test_who_does_not_take_the_last_answer_is_let_go_and_who_takes_it_slowly_is_not() -> None:
    wire = Wire(Limits(unread_s=5))
    (slow, taken), (dead, stuck) = wire.connect(reads=False), wire.connect(reads=False)
    for connection in (slow, dead):
        connection.data_received(head("GET", "/v2/models/delay") * 10 + b"no request\r\n\r\n")
    wire.loop.turn()
    for passed_s in range(1, 10):
        taken.sent = taken.sent[1:]
        slow.expire(slow.since_s + passed_s)
        dead.expire(dead.since_s + passed_s)
    assert stuck.aborted and not taken.aborted


def test_slow_clients_are_told_and_idle_ones_let_go() -> None:
    wire = Wire(Limits(head_s=10, request_s=30, idle_s=75))
    cases = [(b"GET /v2 HT", 11, b"408"), (infer(b"{}")[:-1], 31, b"408"), (b"\r\n" * 50, 76, b""), (b"", 76, b"")]
    for sent, limit_s, said in cases:
        connection, transport = wire.connect()
        connection.data_received(sent) if sent else None
        connection.expire(connection.since_s + limit_s - 2)
        assert not transport.sent and not transport.closing
        connection.expire(connection.since_s + limit_s)
        assert bytes(transport.sent)[9:12] == said and (transport.closing or transport.eof)
    connection, transport = wire.connect()
    wire.engine.hold = True
    connection.data_received(infer(values()))
    wire.loop.turn()
    connection.expire(connection.since_s + 1000)  # it waits for us, not we for it
    assert not transport.closing


def test_when_all_places_are_taken_the_longest_idle_make_room_and_the_busy_stay() -> None:
    wire = Wire(Limits(connections=4))
    held = [wire.connect() for _ in range(4)]
    for number in (0, 2, 3):
        held[number][0].data_received(b"GET /v2 HTTP/1.1\r\n")
    late, answered = wire.connect()
    assert [transport.closing for _, transport in held] == [False, True, False, False]
    late.data_received(head() + b"GET ")
    wire.loop.turn()
    assert answered.sent.startswith(b"HTTP/1.1 200")
    _, refused = wire.connect()
    assert refused.sent.startswith(b"HTTP/1.1 503") and b"Retry-After" in refused.sent


def test_those_who_are_slow_to_ask_cannot_take_all_places() -> None:
    wire = Wire(Limits(connections=4, slow_s=0.0))
    held = [wire.connect() for _ in range(4)]
    wire.engine.hold = True
    held[0][0].data_received(infer(values()))
    wire.loop.turn()
    for number in (1, 2, 3):
        held[number][0].data_received(b"GET /v2 HTTP/1.1\r\n")
    _, answered = wire.connect()
    assert [transport.closing for _, transport in held] == [False, True, False, False] and not answered.sent


def test_answers_keep_the_order_of_the_requests_when_one_is_slow() -> None:
    wire = Wire()
    connection, transport = wire.connect()
    wire.engine.hold = True
    connection.data_received(infer(values(id="slow")) + head("GET", "/v2/health/live") + b"nonsense\r\n\r\n")
    wire.loop.turn()
    assert transport.sent == b"" and connection.eof_received() and not transport.closing
    other, health = wire.connect()
    other.data_received(head("GET", "/v2/health/live"))
    wire.loop.turn()
    assert health.sent.startswith(b"HTTP/1.1 200")
    wire.engine.release()
    got = bytes(transport.sent)
    assert got.index(b'"id":"slow"') < got.index(b'{"live":true}') < got.index(b"HTTP/1.1 400")
    assert transport.closing or transport.eof


DEEP = b'{"a":' * 5000 + b"1" + b"}" * 5000
HOSTILE: dict[str, tuple[bytes, int]] = {
    "deep lists": (b"[" * 100_000, 400),
    "deep objects": (DEEP, 400),
    "a million zeros": (b'{"id":1' + b"0" * 1_000_000 + b"}", 400),
    "a million zeros behind the point": (b'{"inputs":0.' + b"0" * 1_000_000 + b"1}", 422),
    "a huge exponent": (b'{"inputs":1e999999999}', 422),
    "a tiny exponent": (b'{"inputs":1e-999999999}', 422),
    "a lone surrogate": (b'{"id":"\\ud800"}', 400),
    "a lone surrogate in a key": (b'{"\\udfff":1}', 400),
    "broken UTF-8": (b'{"id":"\xc3\x28"}', 400),
    "UTF-16": ('{"id":"x"}'.encode("utf-16"), 400),
    "a byte order mark": (b"\xef\xbb\xbf{}", 400),
    "a NUL": (b'{"id":"\0"}', 400),
    "an escaped NUL": (b'{"id":"\\u0000"}', 422),
    "a comment": (b"{/**/}", 400),
    "a trailing comma": (b'{"id":"x",}', 400),
    "single quotes": (b"{'id':'x'}", 400),
    "two documents": (b"{}{}", 400),
    "more values than any request has": (b'{"a":[' + b"1," * 1_000_001 + b"1]}", 422),
    "more keys than any request has": (b"{" + b'"a":1,' * 1_000_001 + b'"b":1}', 422),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_json_that_is_made_to_hurt_is_refused_before_it_is_a_tree(name: str) -> None:
    body, status = HOSTILE[name]
    wire = Wire()
    tracemalloc.start()
    got = wire.say(infer(body))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert got.startswith(b"HTTP/1.1 %d" % status) and peak < 16 * len(body) + 1_000_000
    assert len(got) < 1000 and wire.engine.asked == []


def test_of_two_equal_keys_the_last_holds() -> None:
    wire = Wire()
    body = json.dumps(values(id="first")).encode()[:-1] + b',"id":"second"}'
    assert b'"id":"second"' in wire.say(infer(body)) and wire.engine.asked[0].request_id == "second"


def test_a_client_that_asks_a_slow_model_on_and_on_is_read_no_further_until_it_answers() -> None:
    wire = Wire(Limits(waiting=100, request_s=5))
    connection, transport = wire.connect()
    wire.engine.hold = True
    one = infer(values())
    for _ in range(20):  # 32 KiB hold more requests than may wait
        if not transport.paused:
            connection.data_received(one * (60_000 // len(one)))
            wire.loop.turn()
    connection.expire(connection.since_s + 100)
    assert transport.paused and not transport.closing and len(wire.engine.held) < 300
    asked = 0
    for _ in range(100):
        asked += len(wire.engine.held)
        wire.engine.release()
        wire.engine.hold = True
        for _ in range(3):
            wire.loop.turn()
    assert not transport.paused and wire.engine.held == []
    assert bytes(transport.sent).count(b"HTTP/1.1 200") == asked == len(wire.engine.asked) > 150


def test_when_too_many_wait_for_slow_models_more_are_told_to_come_back() -> None:
    wire = Wire(Limits(pending=3))
    wire.engine.hold = True
    made = [wire.connect() for _ in range(5)]
    for connection, _ in made:
        connection.data_received(infer(values()))
        wire.loop.turn()
    assert [bytes(transport.sent)[9:12] for _, transport in made] == [b"", b"", b"", b"503", b"503"]
    other, health = wire.connect()
    other.data_received(head("GET", "/v2/health/live"))
    wire.loop.turn()
    wire.engine.release()
    assert health.sent.startswith(b"HTTP/1.1 200") and made[0][1].sent.startswith(b"HTTP/1.1 200")
