"""Recordings of port-forwards through a real API server, from tests/data/k8s-wire (its README.md has the format).

recording = load("spdy-raw/04-refused")
recording.stream(SERVER)    # its bytes after the 101, without the websocket's frames
recording.frames(SERVER)    # the same as SPDY frames, read by the recorder and not by our codec
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from xec_forward.spdy import Data, Frame, GoAway, Ignored, Ping, RstStream, SynReply, SynStream
from xec_forward.spdy.frames import Type

RECORDINGS = Path(__file__).parent.parent / "data" / "k8s-wire"
CLIENT = "c>s"
SERVER = "s>c"
_HEAD = 8


@dataclass(frozen=True)
class Event:
    """Something that crossed the wire, or a note about it.

    Attributes:
        at: milliseconds since the request was sent.
        direction: CLIENT, SERVER or, for a note, empty.
        op: `http`, a websocket's `binary`, `text`, `close`, `ping`, `pong`; `eof`, `note`; `bytes` of a raw upgrade.
        payload: the bytes: of a head and its body, of a whole websocket message, of a piece of the raw stream.
        fields: whatever else the recording says of it, as `status` and `body` of an answer, `code` of a close.
    """

    at: float
    direction: str
    op: str
    payload: bytes
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Recording:
    """One upgrade from its request to its end.

    Attributes:
        name: its folder and file, as in `spdy-ws-16444/03-data-with-syn`.
        meta: the first line of the file: scenario, what, transport, pod_port and more.
        events: everything, in order.
    """

    name: str
    meta: Mapping[str, Any]
    events: tuple[Event, ...]

    def head(self, direction: str) -> bytes:
        """The upgrade's request or answer, with the body where there is one."""
        return b"".join(event.payload for event in self.events if (event.direction, event.op) == (direction, "http"))

    def pieces(self, direction: str) -> list[bytes]:
        """The stream after the heads as it came: binary messages of a websocket, or pieces of a raw upgrade."""
        return [
            event.payload for event in self.events if event.direction == direction and event.op in ("bytes", "binary")
        ]

    def stream(self, direction: str) -> bytes:
        """The stream after the heads."""
        return b"".join(self.pieces(direction))

    @cached_property
    def decoded(self) -> list[dict[str, Any]]:
        """The lines of NAME.decoded.jsonl that are frames, of both directions and in order."""
        path = RECORDINGS / f"{self.name}.decoded.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [line for line in lines if "frame" in line]

    def lines(self, direction: str) -> list[dict[str, Any]]:
        """Those of `decoded` that went in this direction."""
        return [line for line in self.decoded if line["dir"] == direction]

    def frames(self, direction: str) -> list[Frame]:
        """What went in this direction, each DATA frame whole."""
        stream = self.stream(direction)
        return [_frame(line, stream) for line in self.lines(direction)]


@cache
def load(name: str) -> Recording:
    """The recording `name`, as in `kubectl/kubectl-1.37-ws`."""
    meta: dict[str, Any] = {}
    events: list[Event] = []
    parts: list[bytes] = []
    opening: dict[str, Any] = {}
    for text in (RECORDINGS / f"{name}.jsonl").read_text().splitlines():
        line = json.loads(text)
        if "meta" in line:
            meta = line["meta"]
            continue
        # A long payload is several lines; the first has what is to be known of it.
        opening = opening if parts else line
        parts.append(bytes.fromhex(line.get("hex", "")))
        if line.get("more"):
            continue
        payload = b"".join(parts)
        parts.clear()
        assert len(payload) == opening.get("len", len(payload)), f"{name}: a payload is not whole"
        op = opening.get("op") or ("note" if "note" in opening else "bytes")
        events.append(Event(opening["t"], opening.get("dir", ""), op, payload, opening))
    return Recording(name, meta, tuple(events))


def names(*folders: str) -> list[str]:
    """The recordings of these folders, those of all where none is given."""
    paths = [path for folder in folders or ("*",) for path in RECORDINGS.glob(f"{folder}/*.jsonl")]
    return sorted(
        f"{path.parent.name}/{path.stem}"
        for path in paths
        if path.parent.name != "rest" and not path.name.endswith(".decoded.jsonl")
    )


def spdy_names() -> list[str]:
    """The recordings that hold SPDY frames."""
    return names("spdy-raw", "spdy-ws-16443", "spdy-ws-16444", "kubectl")


def rest(name: str) -> Any:
    """An API object, as in `service-pf`, or the events of a watch."""
    objects = RECORDINGS / "rest" / f"{name}.json"
    if objects.exists():
        return json.loads(objects.read_text())
    return [json.loads(line) for line in objects.with_suffix(".jsonl").read_text().splitlines()]


def _frame(line: dict[str, Any], stream: bytes) -> Frame:
    fin = "FIN" in line.get("flags", ())
    match line["frame"]:
        case "SYN_STREAM":
            return SynStream(line["stream"], line["headers"], fin)
        case "SYN_REPLY":
            return SynReply(line["stream"], line["headers"], fin)
        case "DATA":
            payload = stream[line["offset"] + _HEAD :][: line["length"]]
            if "sha256" in line:
                assert hashlib.sha256(payload).hexdigest() == line["sha256"]
            else:
                assert payload.hex() == line["hex"]
            return Data(line["stream"], payload, fin)
        case "RST_STREAM":
            return RstStream(line["stream"], line["status"])
        case "PING":
            return Ping(line["id"])
        case "GOAWAY":
            return GoAway(line["last_good_stream"], line["status"])
        case kind:
            return Ignored(Type[kind], line["flags_raw"], line["length"])
