"""Server-sent events of a predict request."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx

STREAM = {"Accept": "text/event-stream"}
PATIENT = {"budget_ms": "10000", "min_views": "all"}


@dataclass(frozen=True)
class Event:
    name: str
    data: dict[str, Any]
    at: float
    """Seconds after the request."""

    @property
    def views(self) -> list[str]:
        return [view["name"] for view in self.data["receipt"]["views"]]


def events_of(response: httpx.Response, start: float) -> Iterator[Event]:
    """Parse as the standard says: lines `event:` and `data:`, an empty line at the end of each event."""
    name = ""
    for line in response.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield Event(name, json.loads(value), time.monotonic() - start)
        else:
            assert line == ""


def listen(client: httpx.Client, model: str, image: bytes, **query: str) -> list[Event]:
    start = time.monotonic()
    path = f"/v1/models/{model}/predict"
    with client.stream("POST", path, content=image, params=query, headers=STREAM) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["X-Request-Id"]
        return list(events_of(response, start))


def check_order(events: list[Event], last: str = "answer") -> None:
    """Partial answers of increasing numbers of views, then the last event."""
    assert [event.name for event in events] == ["partial"] * (len(events) - 1) + [last]
    merged = [event for event in events if "receipt" in event.data]
    for earlier, later in pairwise(merged):
        assert set(earlier.views) <= set(later.views)
    for event in merged:
        assert event.views[0] == "plain"
        assert (event.data["receipt"]["stop_reason"] is None) == (event.name == "partial")
    assert len({event.data["receipt"]["request_id"] for event in merged}) == 1
