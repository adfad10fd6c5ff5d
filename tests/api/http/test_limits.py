"""Raw connections to a real server: slow, large, invalid or too many clients are refused and disturb no others."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import MAX_BYTES
from tests.support.connection import (
    GET,
    IMAGE,
    INFER,
    MAX_CONNECTIONS,
    MAX_HEAD,
    PREDICT,
    chunked,
    connected,
    like,
    post,
    top,
)
from tests.support.serving import Server, models_folder, until

pytestmark = pytest.mark.timing


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One second to receive a request."""
    folder = models_folder(tmp_path_factory.mktemp("models"), "cifar10")
    arguments = ("--port", "0", "--slots", "2", "--models", str(folder), "--max-connections", str(MAX_CONNECTIONS))
    with Server(*arguments, "--receive-seconds", "1") as running:
        assert running.url
        yield running
        assert "Traceback" not in "".join(running.lines["stderr"])


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Few connections, and the default time to receive."""
    folder = models_folder(tmp_path_factory.mktemp("models"), "cifar10")
    with Server(
        "--port", "0", "--slots", "2", "--models", str(folder), "--max-connections", str(MAX_CONNECTIONS)
    ) as running:
        assert running.url
        yield running


# ---- slow clients ----


@pytest.mark.parametrize(
    "beginning",
    [
        GET[:-2] + b"X: x",
        b"\r\n",
        post(PREDICT, b"x" * 100_000)[:200],
        post(INFER, b"{" * 100_000)[:200],
        chunked(PREDICT, [b"x" * 100_000])[:200],
        b"POST /v2/models/cifar10/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;x",
        post("/v2/nothing/here", b"x" * 100_000)[:20],
    ],
    ids=["head", "empty lines", "body", "v2 body", "chunk", "chunk extension", "unknown path"],
)
def test_a_request_that_trickles_in_is_refused(hasty: Server, beginning: bytes) -> None:
    with connected(hasty) as connection:
        connection.trickle(beginning)
        reply = connection.reply()
        assert "1 s" in reply.error(408, "too_slow")
        assert reply.headers["connection"] == "close"
        assert connection.is_closed()


def test_a_silent_connection_is_closed(hasty: Server) -> None:
    with connected(hasty) as connection:
        connection.reply().error(408, "too_slow")
        assert connection.is_closed()


def test_an_idle_connection_is_kept_and_its_next_request_is_timed(hasty: Server) -> None:
    with connected(hasty) as connection:
        connection.send(GET)
        assert connection.reply().status == 200
        assert not connection.responds(1.5)
        connection.send(GET)
        assert connection.reply().status == 200
        connection.trickle(GET[:-2] + b"X: x")
        connection.reply().error(408, "too_slow")
        assert connection.is_closed()


def test_empty_lines_do_not_keep_a_connection_open(hasty: Server) -> None:
    """They may precede a request and are not part of it."""
    with connected(hasty) as connection:
        connection.send(GET)
        assert connection.reply().status == 200
        for _ in range(100):
            connection.send(b"\r\n")
            if connection.responds(0.05):
                break
        else:
            pytest.fail("five times as long as a request may take")
        connection.reply().error(408, "too_slow")
        assert connection.is_closed()


def test_data_after_too_large_a_request_is_not_read_without_end(hasty: Server) -> None:
    with connected(hasty) as connection:
        connection.send(post(PREDICT, b"")[:-4].replace(b"Length: 0", b"Length: 9000000000") + b"\r\n\r\n")
        connection.reply().error(413, "too_large")
        connection.trickle(b"x")
        assert connection.is_closed()


def test_normal_clients_are_answered_while_others_trickle(hasty: Server) -> None:
    with ExitStack() as stack, hasty.client() as client:
        connections = [stack.enter_context(connected(hasty)) for _ in range(MAX_CONNECTIONS - 2)]
        for connection in connections:
            connection.send(post(PREDICT, b"x" * 100)[:-50])
        for _ in range(10):
            assert client.post(PREDICT, content=IMAGE).status_code == 200
        for connection in connections:
            connection.reply().error(408, "too_slow")


# ---- large requests ----


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"], ids=["endless", "whole"])
@pytest.mark.parametrize(
    "head",
    [
        b"GET /v2 HTTP/1.1\r\nX: " + b"x" * MAX_HEAD,
        b"GET /v2 HTTP/1.1\r\nX: " + b"x" * 2 * MAX_HEAD,
        b"GET /v2 HTTP/1.1\r\n" + b"X: x\r\n" * (MAX_HEAD // 5),
        b"GET /v2?" + b"x" * MAX_HEAD,
        b"\r\n" * MAX_HEAD + GET[:-2],
    ],
    ids=["one header", "longer", "many headers", "the request line", "empty lines"],
)
def test_a_head_of_over_64_kb_is_refused(server: Server, head: bytes, end: bytes) -> None:
    with connected(server) as connection:
        connection.send(head + end)
        assert str(MAX_HEAD) in connection.reply().error(431, "invalid_input")
        assert connection.is_closed()


def test_a_head_of_almost_64_kb_is_accepted(server: Server) -> None:
    with connected(server) as connection:
        connection.send(b"GET /v2 HTTP/1.1\r\n" + b"X: x\r\n" * 10_000 + b"\r\n")
        assert connection.reply("GET").status == 200


def test_the_limit_is_each_requests_own(server: Server) -> None:
    request = b"GET /v2 HTTP/1.1\r\nX: " + b"x" * (MAX_HEAD // 2) + b"\r\n\r\n"
    with connected(server) as connection:
        for _ in range(5):
            connection.send(request)
            assert connection.reply().status == 200


@pytest.mark.parametrize("trailer", [b"X: x\r\n", b"x"], ids=["many", "one"])
def test_trailers_are_limited_as_heads_are(server: Server, trailer: bytes) -> None:
    """They follow the last chunk of a body, and uvicorn keeps them with the headers."""
    with connected(server) as connection:
        connection.send(chunked(PREDICT, [IMAGE])[:-2])
        try:
            for _ in range(50):
                connection.send(trailer * (100_000 // len(trailer)))
        except OSError:
            pass  # it has hung up
        connection.reply().error(431, "invalid_input")


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(server: Server) -> None:
    with connected(server) as connection:
        request = post(INFER, b"x" * (2 * MAX_BYTES))
        connection.send(request[:1000])
        assert str(MAX_BYTES) in connection.reply().error(413, "too_large")
        connection.send(request[1000:], GET)
        assert connection.reply().status == 200


def test_a_chunked_body_is_refused_as_soon_as_it_is_too_large(server: Server) -> None:
    with connected(server) as connection:
        pieces = chunked(INFER, [b"x" * 10_000] * 1000)
        connection.send(pieces[: MAX_BYTES + 100_000])
        connection.reply().error(413, "too_large")


def test_connections_over_the_limit_are_refused_until_some_close(narrow: Server) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(connected(narrow)) for _ in range(MAX_CONNECTIONS)]
        for connection in connections:
            connection.send(GET)
            assert connection.reply().status == 200
        with connected(narrow) as late:
            reply = late.reply()
            assert str(MAX_CONNECTIONS) in reply.error(503, "overloaded")
            assert reply.headers["retry-after"] == "1"
            assert late.is_closed()
        connections[0].send(GET)
        assert connections[0].reply().status == 200
        connections[1].close()

        def has_room() -> bool:
            with connected(narrow) as connection:
                if connection.responds(0.05):
                    return False
                connection.send(GET)
                return connection.reply().status == 200

        assert until(has_room)


def test_a_connection_over_the_limit_that_sends_first_is_refused(narrow: Server) -> None:
    with ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            connection = stack.enter_context(connected(narrow))
            connection.send(GET)
            assert connection.reply().status == 200
        for _ in range(20):
            with connected(narrow) as late:
                late.send(post(PREDICT, IMAGE))
                late.reply().error(503, "overloaded")


# ---- invalid clients ----


@pytest.mark.parametrize(
    "nonsense",
    [
        b"hello\r\n\r\n",
        b"\0" * 100,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(100)),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v2\xff HTTP/1.1\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n",
        b"CONNECT tests:80 HTTP/1.1\r\n\r\n",
        b"GET http://tests HTTP/1.1\r\n\r\n",
        b"GET http:// HTTP/1.1\r\n\r\n",
    ],
    ids=[
        "words",
        "zeros",
        "tls",
        "h2",
        "version",
        "letters",
        "length",
        "both",
        "chunk",
        "connect",
        "no path",
        "no host",
    ],
)
@pytest.mark.parametrize("before", [b"", GET], ids=["first", "later"])
def test_data_that_is_not_http_is_refused(server: Server, before: bytes, nonsense: bytes) -> None:
    with connected(server) as connection:
        if before:
            connection.send(before)
            assert connection.reply().status == 200
        connection.send(nonsense)
        connection.reply().error(400, "invalid_input")
        assert connection.is_closed()


def test_an_upgrade_to_another_protocol_is_ignored(server: Server) -> None:
    """Java's clients, and `curl --http2`, request one in each first request."""
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
    with connected(server) as connection:
        connection.send(post(PREDICT, IMAGE))
        expected = top(connection.reply())
        connection.send(post(PREDICT, IMAGE, *upgrade))
        assert top(connection.reply()) == like(expected)
        connection.send(chunked(PREDICT, [IMAGE], *upgrade))
        assert top(connection.reply()) == like(expected)
