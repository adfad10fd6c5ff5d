"""LimitedProtocol rests on private members of uvicorn; these tests fail on a version that it was not written for."""

import inspect

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
