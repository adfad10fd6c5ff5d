"""LimitedProtocol rests on private members of uvicorn; these tests fail on a version that it was not written for."""

import inspect
import re

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tta_server.api.http.limits import LimitedProtocol

WRITTEN_FOR = "0.54"
OVERRIDDEN = {
    "__init__",
    "connection_made",
    "connection_lost",
    "data_received",
    "on_message_begin",
    "on_url",
    "on_header",
    "on_headers_complete",
    "on_body",
    "on_message_complete",
    "on_response_complete",
    "_unsupported_upgrade_warning",
    "pause_writing",
    "resume_writing",
    "send_400_response",
}
USED = {"connections", "cycle", "headers", "loop", "parser", "pipeline", "transport"}


def test_uvicorn_is_the_minor_version_that_the_protocol_was_written_for() -> None:
    """On a new one, compare `httptools_impl.py` of both versions and run `test_limits.py`.

    Then raise WRITTEN_FOR and the bounds in pyproject.toml.
    """
    assert uvicorn.__version__.startswith(f"{WRITTEN_FOR}.")


def test_every_overridden_method_exists_in_uvicorn() -> None:
    own = {name for name, _ in inspect.getmembers(LimitedProtocol, inspect.isfunction) if name in vars(LimitedProtocol)}
    assert own & set(vars(HttpToolsProtocol)) == OVERRIDDEN


def test_every_attribute_that_is_used_exists_in_uvicorn() -> None:
    source = inspect.getsource(HttpToolsProtocol.__init__)
    assert {name for name in USED if f"self.{name}" not in source} == set()
    assert "self.url = " in inspect.getsource(HttpToolsProtocol.on_message_begin)


def test_a_complete_cycle_is_asked_for_no_more_than_a_refused_one_has() -> None:
    """uvicorn drops the body of a request whose cycle has a complete response."""
    used = set(re.findall(r"self\.cycle\.(\w+)", inspect.getsource(HttpToolsProtocol)))
    only_while_incomplete = {"body", "disconnected", "more_body"}
    assert used - only_while_incomplete <= {"response_complete", "keep_alive", "message_event"}
