"""Raw connections to a real server: slow, huge, invalid or vanished clients are refused and disturb no others."""

import json
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.client import parse_headers
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MAX_BYTES
from tests.support import pictures
from tests.support.gated import GatedServer
from tests.support.serving import PATIENCE, Server, models_folder, until
from tests.support.toys import trap_model, trapped

pytestmark = pytest.mark.timing

PREDICT = "/v1/models/cifar10/predict?budget_ms=10000&min_views=all"
INFER = "/v2/models/cifar10/infer"
TOY = "/v1/models/toy/predict?budget_ms=10000&min_views=all"
GET = b"GET /v2 HTTP/1.1\r\nHost: tests\r\n\r\n"
IMAGE = pictures.png(32, 32)
MOST = 20
HEAD = 65_536


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One second to receive a request."""
    folder = models_folder(tmp_path_factory.mktemp("models"), "cifar10")
    arguments = ("--port", "0", "--slots", "2", "--models", str(folder), "--max-connections", str(MOST))
    with Server(*arguments, "--receive-seconds", "1") as running:
        assert running.url
        yield running
        assert "Traceback" not in "".join(running.lines["stderr"])


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Few connections, and the default time to receive."""
    folder = models_folder(tmp_path_factory.mktemp("models"), "cifar10")
    with Server("--port", "0", "--slots", "2", "--models", str(folder), "--max-connections", str(MOST)) as running:
        assert running.url
        yield running


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    def error(self, status: int, code: str) -> str:
        """Check what every error response has; return its sentence."""
        assert self.status == status, self
        assert self.headers["content-type"] == "application/json"
        payload = json.loads(self.body)
        assert set(payload) == {"error", "code"}
        assert payload["code"] == code
        sentence: str = payload["error"]
        assert sentence
        return sentence


class Connection:
    """One connection, byte by byte."""

    def __init__(self, server: Server) -> None:
        host, _, port = server.url.removeprefix("http://").partition(":")
        self.socket = socket.create_connection((host, int(port)), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.socket.makefile("rb")

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.socket.sendall(piece)

    def responds(self, seconds: float) -> bool:
        """Whether the server sends something or disconnects within that time."""
        return bool(select.select([self.socket], [], [], seconds)[0])

    def trickle(self, data: bytes) -> None:
        """Send a byte now and then, the last one repeatedly, until the server sends something."""
        for byte in chain(data, repeat(data[-1])):
            self.send(bytes([byte]))
            if self.responds(0.02):
                return

    def reply(self, method: str = "POST") -> Reply:
        version, _, rest = self._file.readline().decode().partition(" ")
        assert version == "HTTP/1.1", rest
        headers = {name.lower(): value for name, value in parse_headers(self._file).items()}
        size = 0 if method == "HEAD" else int(headers.get("content-length", 0))
        return Reply(int(rest[:3]), headers, self._file.read(size))

    def is_closed(self) -> bool:
        """Wait until the server disconnects without sending more."""
        try:
            return self._file.read() == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@contextmanager
def connected(server: Server) -> Iterator[Connection]:
    with closing(Connection(server)) as connection:
        yield connection


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A whole request."""
    lines = (f"POST {path} HTTP/1.1", "Host: tests", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(lines).encode() + body


def chunked(path: str, chunks: Sequence[bytes], *headers: str) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: tests", "Transfer-Encoding: chunked", *headers, "", "")
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return "\r\n".join(lines).encode() + body + b"0\r\n\r\n"


def infer_json(image: bytes = IMAGE, **more: Any) -> tuple[bytes, int]:
    """A v2 request with a binary input, JSON outputs; and the length of its JSON."""
    size = {"binary_data_size": len(image) + 4}
    head = {"inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [1, 1], "parameters": size}], **more}
    encoded = json.dumps({"parameters": {"timeout": 10_000_000, "tta_min_views": "all"}, **head}).encode()
    return encoded + struct.pack("<I", len(image)) + image, len(encoded)


def infer(image: bytes = IMAGE, *headers: str, **more: Any) -> bytes:
    body, length = infer_json(image, **more)
    return post(INFER, body, f"Inference-Header-Content-Length: {length}", *headers)


def outputs(reply: Reply) -> list[float]:
    """The probabilities of a v2 response, and the index of the highest."""
    assert reply.status == 200, reply
    found = {output["name"]: output["data"] for output in json.loads(reply.body)["outputs"]}
    return [*found["PROBABILITIES"], *found["INDEX"]]


def top(reply: Reply) -> dict[str, float]:
    assert reply.status == 200, reply
    return {entry["label"]: entry["probability"] for entry in json.loads(reply.body)["prediction"]["top"]}


def like(answer: Any) -> Any:
    """Equal but for the last bits, which depend on the batches."""
    return pytest.approx(answer, abs=1e-5)


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
        connections = [stack.enter_context(connected(hasty)) for _ in range(MOST - 2)]
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
        b"GET /v2 HTTP/1.1\r\nX: " + b"x" * HEAD,
        b"GET /v2 HTTP/1.1\r\nX: " + b"x" * 2 * HEAD,
        b"GET /v2 HTTP/1.1\r\n" + b"X: x\r\n" * (HEAD // 5),
        b"GET /v2?" + b"x" * HEAD,
        b"\r\n" * HEAD + GET[:-2],
    ],
    ids=["one header", "longer", "many headers", "the request line", "empty lines"],
)
def test_a_head_of_over_64_kb_is_refused(server: Server, head: bytes, end: bytes) -> None:
    with connected(server) as connection:
        connection.send(head + end)
        assert str(HEAD) in connection.reply().error(431, "invalid_input")
        assert connection.is_closed()


def test_a_head_of_almost_64_kb_is_accepted(server: Server) -> None:
    with connected(server) as connection:
        connection.send(b"GET /v2 HTTP/1.1\r\n" + b"X: x\r\n" * 10_000 + b"\r\n")
        assert connection.reply("GET").status == 200


def test_the_limit_is_each_requests_own(server: Server) -> None:
    request = b"GET /v2 HTTP/1.1\r\nX: " + b"x" * (HEAD // 2) + b"\r\n\r\n"
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
        connections = [stack.enter_context(connected(narrow)) for _ in range(MOST)]
        for connection in connections:
            connection.send(GET)
            assert connection.reply().status == 200
        with connected(narrow) as late:
            reply = late.reply()
            assert str(MOST) in reply.error(503, "overloaded")
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
        for _ in range(MOST):
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


# ---- many requests of one connection ----


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    images = [pictures.png(32, 32, seed) for seed in range(4)]
    with connected(server) as connection:
        alone = []
        for image in images:
            connection.send(infer(image))
            alone.append(outputs(connection.reply()))
        assert len(set(map(tuple, alone))) == len(alone)
        connection.send(b"".join(infer(image, id=str(number)) + GET for number, image in enumerate(images)))
        for number in range(len(images)):
            reply = connection.reply()
            assert json.loads(reply.body)["id"] == str(number)
            assert outputs(reply) == like(alone[number])
            assert json.loads(connection.reply().body)["name"] == "tta-server"


@pytest.mark.parametrize("second", [post(TOY, pictures.png(700, 500)), GET[:1]], ids=["whole", "begun"])
def test_a_request_after_a_slow_one_is_not_timed_out(tmp_path: Path, second: bytes) -> None:
    """The first takes longer than the time to receive. The server does not read the second body meanwhile, so its
    client is not slow."""
    trap_model(tmp_path / "toy")
    with GatedServer(tmp_path, slots=1, receive_seconds=1.0) as server, connected(server) as connection:
        server.close_gate()
        connection.send(post(TOY, pictures.encoded(trapped()), "X-Request-Id: first") + second)
        time.sleep(1.5)  # the second has passed
        server.open_gate()
        reply = connection.reply()
        assert reply.status == 200, reply
        assert reply.headers["x-request-id"] == "first"


# ---- pieces ----


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("size", [997, 65_536, 10_000_000], ids=str)
def test_a_large_body_may_come_in_any_pieces(server: Server, size: int) -> None:
    image = pictures.png(700, 500)
    with connected(server) as connection:
        connection.send(infer(image))
        expected = outputs(connection.reply())
        connection.send(*pieces(infer(image), size))
        assert outputs(connection.reply()) == like(expected)


@pytest.mark.parametrize("cut", [-4, -3, -2, -1, 0, 1, 5])
def test_the_heads_end_may_be_split(server: Server, cut: int) -> None:
    request = infer()
    end = request.index(b"\r\n\r\n") + 4
    with connected(server) as connection:
        connection.send(request)
        expected = outputs(connection.reply())
        connection.send(request[: end + cut])
        assert not connection.responds(0.02)
        connection.send(request[end + cut :])
        assert outputs(connection.reply()) == like(expected)


def test_a_body_of_65000_one_byte_chunks_is_answered_like_a_whole_one(server: Server) -> None:
    image = pictures.encoded(pictures.pixels(200, 107), "BMP")[:65_000]
    assert len(image) > 60_000
    body, length = infer_json(image)
    with connected(server) as connection:
        connection.send(infer(image))
        expected = outputs(connection.reply())
        connection.send(chunked(INFER, [bytes([b]) for b in body], f"Inference-Header-Content-Length: {length}"))
        assert outputs(connection.reply()) == like(expected)
        connection.send(post(PREDICT, image))
        whole = top(connection.reply())
        connection.send(chunked(PREDICT, [bytes([b]) for b in image]))
        assert top(connection.reply()) == like(whole)


def test_a_client_that_expects_100_continue_gets_it(server: Server) -> None:
    with connected(server) as connection:
        request = infer(IMAGE, "Expect: 100-continue")
        end = request.index(b"\r\n\r\n") + 4
        connection.send(request[:end])
        assert connection.reply().status == 100
        connection.send(request[end:])
        assert outputs(connection.reply())


def test_too_large_a_body_is_refused_instead_of_100_continue(server: Server) -> None:
    with connected(server) as connection:
        request = post(INFER, b"x" * (MAX_BYTES + 1), "Expect: 100-continue")
        connection.send(request[: request.index(b"\r\n\r\n") + 4])
        connection.reply().error(413, "too_large")


# ---- methods, paths, types ----


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/nothing", 404, "not_found"),
        ("GET", "/v2/models", 404, "not_found"),
        ("GET", "/v2/models/nothing", 404, "unknown_model"),
        ("GET", "/v2/models/cifar10/versions/9", 404, "unknown_model"),
        ("GET", "/v2/models/cifar10/nothing", 404, "not_found"),
        ("GET", INFER, 405, "method_not_allowed"),
        ("PUT", INFER, 405, "method_not_allowed"),
        ("POST", "/v2", 405, "method_not_allowed"),
        ("DELETE", "/v2/models/cifar10", 405, "method_not_allowed"),
        ("OPTIONS", "*", 404, "not_found"),
        ("POST", INFER, 400, "invalid_input"),
        ("POST", "/v2/models/nothing/infer", 404, "unknown_model"),
    ],
)
def test_every_refusal_of_v2_has_the_protocols_shape(
    server: Server, method: str, path: str, status: int, code: str
) -> None:
    with connected(server) as connection:
        connection.send(f"{method} {path} HTTP/1.1\r\nHost: tests\r\nContent-Length: 0\r\n\r\n".encode())
        reply = connection.reply()
        reply.error(status, code)
        assert ("allow" in reply.headers) == (status == 405)
        connection.send(GET)
        assert connection.reply().status == 200


@pytest.mark.parametrize("path", ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/cifar10/config"])
def test_head_is_get_without_its_body(server: Server, path: str) -> None:
    with connected(server) as connection:
        connection.send(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        whole = connection.reply()
        connection.send(f"HEAD {path} HTTP/1.1\r\n\r\n".encode(), GET)
        reply = connection.reply("HEAD")
        assert reply.status == whole.status == 200
        assert reply.headers["content-length"] == str(len(whole.body))
        assert connection.reply().status == 200


def test_infer_needs_no_content_type(server: Server) -> None:
    with connected(server) as connection:
        connection.send(
            infer(), infer(IMAGE, "Content-Type: text/plain"), infer(IMAGE, "Content-Type: application/json")
        )
        expected = like(outputs(connection.reply()))
        assert outputs(connection.reply()) == expected
        assert outputs(connection.reply()) == expected


# ---- clients that disconnect ----


@pytest.mark.parametrize("path", [PREDICT, INFER, "/v2/repository/index"])
def test_a_disconnect_in_a_body_is_logged_once(narrow: Server, path: str) -> None:
    name = f"left-{path.count('/')}-{len(path)}"
    with connected(narrow) as connection:
        connection.send(post(path, b"x" * 9000, f"X-Request-Id: {name}")[:-4000])
    narrow.wait_for(name, "stdout")
    (entry,) = [json.loads(found) for found in narrow.lines["stdout"] if name in found]
    assert (entry["event"], entry["status"], entry["code"]) == ("error", 499, "cancelled")
    assert "Traceback" not in "".join(narrow.lines["stderr"])


def test_disconnects_at_any_byte_disturb_no_other_client(narrow: Server) -> None:
    request = infer()

    def leave(at: int) -> None:
        with connected(narrow) as connection:
            connection.send(request[:at])
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", at % 2, 0))

    with ThreadPoolExecutor(4) as clients, narrow.client() as client:
        list(clients.map(leave, range(1, len(request), 53)))
        until(lambda: client.post(PREDICT, content=IMAGE).status_code == 200)
    assert "Traceback" not in "".join(narrow.lines["stderr"])
