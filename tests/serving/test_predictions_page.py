"""What docs/guides/predictions.md says of requests and limits is so."""

import json
import re
from pathlib import Path

from wire_harness import Wire, infer

from loopwright.faces.listener import Limits as ControlLimits
from loopwright.serving.protocols import tensors
from loopwright.serving.protocols.limits import Limits

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "predictions.md").read_text()


def test_the_requests_of_the_page_are_answered() -> None:
    found = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert len(found) == 2
    for text, endpoint in zip(found, ("delay", "grid"), strict=True):
        wire = Wire()
        got = wire.say(infer(text.encode(), path=f"/v2/models/{endpoint}/infer"))
        assert got.startswith(b"HTTP/1.1 200") and len(wire.engine.asked[0].rows) == 2
        assert json.loads(got.partition(b"\r\n\r\n")[2]).get("id") == json.loads(text).get("id")


def test_the_limits_of_the_page_are_those_of_the_code() -> None:
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:4]]
        for line in PAGE.split("\n")
        if line.startswith("|")
    }
    data, control = Limits(), ControlLimits()

    def said(start: str) -> list[str]:
        return next(cells for name, cells in rows.items() if name.startswith(start))

    assert said("connections") == [str(data.connections), str(control.connections)]
    for limits, cell in zip((data, control), said("head: bytes"), strict=True):
        assert cell == f"{limits.head_bytes >> 10} KiB, {limits.headers}, {limits.url_bytes >> 10} KiB"
    assert said("body")[0] == f"{data.body_bytes >> 20} MiB"
    assert said("rows, values")[0] == f"{tensors.MAX_ROWS:,}, {tensors.MAX_VALUES:,}"
    assert said("requests sent ahead") == [str(data.waiting), str(control.waiting)]
    assert f"{data.pending:,} requests wait" in PAGE
    assert said("time for the head") == [f"{data.head_s:.0f} s", f"{control.head_s:.0f} s"]
    assert said("time for the whole") == [
        f"{data.request_s:.0f} s", f"{control.request_s:.0f} s, and more at {control.body_bytes_s >> 10} KiB/s",
    ]  # fmt: skip
    assert (
        said("without a request")[0] == f"{data.idle_s:.0f} s" and f"{control.idle_s:.0f} s" in said("without a req")[1]
    )
    assert said("without reading") == [f"{data.unread_s:.0f} s", f"{control.unread_s:.0f} s"]
