"""Raw connections against a real server: who is slow, huge, odd or gone is told so, let go, and hurts nobody else."""

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
    """Gives a request a second to arrive."""
    folder = models_folder(tmp_path_factory.mktemp("models"), "cifar10")
    arguments = ("--port", "0", "--slots", "2", "--models", str(folder), "--max-connections", str(MOST))
    with Server(*arguments, "--receive-seconds", "1") as running:
        assert running.url
        yield running
        assert "Traceback" not in "".join(running.lines["stderr"])


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Takes few connections, and waits long for them."""
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
        """The shape that every error has; returns its sentence."""
        assert self.status == status, self
        assert self.headers["content-type"] == "application/json"
        told = json.loads(self.body)
        assert set(told) == {"error", "code"}
        assert told["code"] == code
        sentence: str = told["error"]
        assert sentence
        return sentence


class Line:
    """One connection, byte by byte."""

    def __init__(self, server: Server) -> None:
        host, _, port = server.url.removeprefix("http://").partition(":")
        self.socket = socket.create_connection((host, int(port)), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.socket.makefile("rb")

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.socket.sendall(piece)

    def heard(self, seconds: float) -> bool:
        """Whether the server says something, or hangs up, within that time."""
        return bool(select.select([self.socket], [], [], seconds)[0])

    def trickle(self, data: bytes) -> None:
        """A byte now and then, the last one for ever, until the server has something to say."""
        for byte in chain(data, repeat(data[-1])):
            self.send(bytes([byte]))
            if self.heard(0.02):
                return

    def reply(self, method: str = "POST") -> Reply:
        version, _, rest = self._file.readline().decode().partition(" ")
        assert version == "HTTP/1.1", rest
        headers = {name.lower(): value for name, value in parse_headers(self._file).items()}
        size = 0 if method == "HEAD" else int(headers.get("content-length", 0))
        return Reply(int(rest[:3]), headers, self._file.read(size))

    def is_closed(self) -> bool:
        """Waits for the end of what the server says; there may be no more of it."""
        try:
            return self._file.read() == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@contextmanager
def connected(server: Server) -> Iterator[Line]:
    with closing(Line(server)) as line:
        yield line


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
    """The probabilities that v2 answers, and the index of the highest."""
    assert reply.status == 200, reply
    found = {output["name"]: output["data"] for output in json.loads(reply.body)["outputs"]}
    return [*found["PROBABILITIES"], *found["INDEX"]]


def top(reply: Reply) -> dict[str, float]:
    assert reply.status == 200, reply
    return {entry["label"]: entry["probability"] for entry in json.loads(reply.body)["prediction"]["top"]}


def like(answer: Any) -> Any:
    """Views ride in other batches each time, which changes the last bits."""
    return pytest.approx(answer, abs=1e-5)


# ---- who is slow ----


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
def test_a_request_that_trickles_in_is_cut_off(hasty: Server, beginning: bytes) -> None:
    with connected(hasty) as line:
        line.trickle(beginning)
        reply = line.reply()
        assert "1 s" in reply.error(408, "too_slow")
        assert reply.headers["connection"] == "close"
        assert line.is_closed()


def test_a_connection_that_says_nothing_is_closed(hasty: Server) -> None:
    with connected(hasty) as line:
        line.reply().error(408, "too_slow")
        assert line.is_closed()


def test_an_idle_connection_is_kept_but_its_next_request_has_to_arrive_in_time_too(hasty: Server) -> None:
    with connected(hasty) as line:
        line.send(GET)
        assert line.reply().status == 200
        assert not line.heard(1.5)
        line.send(GET)
        assert line.reply().status == 200
        line.trickle(GET[:-2] + b"X: x")
        line.reply().error(408, "too_slow")
        assert line.is_closed()


def test_empty_lines_do_not_keep_a_connection_for_ever(hasty: Server) -> None:
    """They may come before a request, and are none."""
    with connected(hasty) as line:
        line.send(GET)
        assert line.reply().status == 200
        for _ in range(100):
            line.send(b"\r\n")
            if line.heard(0.05):
                break
        else:
            pytest.fail("five times as long as a request may take")
        line.reply().error(408, "too_slow")
        assert line.is_closed()


def test_what_a_client_sends_after_too_large_a_request_is_not_read_for_ever(hasty: Server) -> None:
    with connected(hasty) as line:
        line.send(post(PREDICT, b"")[:-4].replace(b"Length: 0", b"Length: 9000000000") + b"\r\n\r\n")
        line.reply().error(413, "too_large")
        line.trickle(b"x")
        assert line.is_closed()


def test_normal_clients_are_answered_while_others_trickle(hasty: Server) -> None:
    with ExitStack() as stack, hasty.client() as client:
        lines = [stack.enter_context(connected(hasty)) for _ in range(MOST - 2)]
        for line in lines:
            line.send(post(PREDICT, b"x" * 100)[:-50])
        for _ in range(10):
            assert client.post(PREDICT, content=IMAGE).status_code == 200
        for line in lines:
            line.reply().error(408, "too_slow")


# ---- who is huge ----


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
    ids=["one header", "longer", "many headers", "the line", "empty lines"],
)
def test_a_head_of_over_64_kb_is_refused(server: Server, head: bytes, end: bytes) -> None:
    with connected(server) as line:
        line.send(head + end)
        assert str(HEAD) in line.reply().error(431, "invalid_input")
        assert line.is_closed()


def test_a_head_of_almost_64_kb_is_taken(server: Server) -> None:
    with connected(server) as line:
        line.send(b"GET /v2 HTTP/1.1\r\n" + b"X: x\r\n" * 10_000 + b"\r\n")
        assert line.reply("GET").status == 200


def test_the_limit_is_each_requests_own(server: Server) -> None:
    request = b"GET /v2 HTTP/1.1\r\nX: " + b"x" * (HEAD // 2) + b"\r\n\r\n"
    with connected(server) as line:
        for _ in range(5):
            line.send(request)
            assert line.reply().status == 200


@pytest.mark.parametrize("trailer", [b"X: x\r\n", b"x"], ids=["many", "one"])
def test_trailers_are_limited_as_heads_are(server: Server, trailer: bytes) -> None:
    """They come after the last chunk of a body, and were kept with the headers."""
    with connected(server) as line:
        line.send(chunked(PREDICT, [IMAGE])[:-2])
        try:
            for _ in range(50):
                line.send(trailer * (100_000 // len(trailer)))
        except OSError:
            pass  # it has hung up
        line.reply().error(431, "invalid_input")


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(server: Server) -> None:
    with connected(server) as line:
        request = post(INFER, b"x" * (2 * MAX_BYTES))
        line.send(request[:1000])
        assert str(MAX_BYTES) in line.reply().error(413, "too_large")
        line.send(request[1000:], GET)
        assert line.reply().status == 200


def test_a_chunked_body_is_refused_as_soon_as_it_is_too_large(server: Server) -> None:
    with connected(server) as line:
        pieces = chunked(INFER, [b"x" * 10_000] * 1000)
        line.send(pieces[: MAX_BYTES + 100_000])
        line.reply().error(413, "too_large")


def test_too_many_connections_are_told_so_and_there_is_room_when_some_close(narrow: Server) -> None:
    with ExitStack() as stack:
        lines = [stack.enter_context(connected(narrow)) for _ in range(MOST)]
        for line in lines:
            line.send(GET)
            assert line.reply().status == 200
        with connected(narrow) as late:
            reply = late.reply()
            assert str(MOST) in reply.error(503, "overloaded")
            assert reply.headers["retry-after"] == "1"
            assert late.is_closed()
        lines[0].send(GET)
        assert lines[0].reply().status == 200
        lines[1].close()

        def has_room() -> bool:
            with connected(narrow) as line:
                if line.heard(0.05):
                    return False
                line.send(GET)
                return line.reply().status == 200

        assert until(has_room)


def test_who_is_one_too_many_hears_so_even_when_it_speaks_first(narrow: Server) -> None:
    with ExitStack() as stack:
        for _ in range(MOST):
            line = stack.enter_context(connected(narrow))
            line.send(GET)
            assert line.reply().status == 200
        for _ in range(20):
            with connected(narrow) as late:
                late.send(post(PREDICT, IMAGE))
                late.reply().error(503, "overloaded")


# ---- who is odd ----


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
def test_what_is_not_http_is_told_so(server: Server, before: bytes, nonsense: bytes) -> None:
    with connected(server) as line:
        if before:
            line.send(before)
            assert line.reply().status == 200
        line.send(nonsense)
        line.reply().error(400, "invalid_input")
        assert line.is_closed()


def test_a_wish_for_another_protocol_is_let_pass(server: Server) -> None:
    """Java's clients, and `curl --http2`, say so in every first request."""
    wish = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
    with connected(server) as line:
        line.send(post(PREDICT, IMAGE))
        expected = top(line.reply())
        line.send(post(PREDICT, IMAGE, *wish))
        assert top(line.reply()) == like(expected)
        line.send(chunked(PREDICT, [IMAGE], *wish))
        assert top(line.reply()) == like(expected)


# ---- many requests of one connection ----


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    images = [pictures.png(32, 32, seed) for seed in range(4)]
    with connected(server) as line:
        alone = []
        for image in images:
            line.send(infer(image))
            alone.append(outputs(line.reply()))
        assert len(set(map(tuple, alone))) == len(alone)
        line.send(b"".join(infer(image, id=str(number)) + GET for number, image in enumerate(images)))
        for number in range(len(images)):
            reply = line.reply()
            assert json.loads(reply.body)["id"] == str(number)
            assert outputs(reply) == like(alone[number])
            assert json.loads(line.reply().body)["name"] == "tta-server"


@pytest.mark.parametrize("second", [post(TOY, pictures.png(700, 500)), GET[:1]], ids=["whole", "begun"])
def test_a_request_behind_one_that_takes_long_does_not_cost_its_answer(tmp_path: Path, second: bytes) -> None:
    """Of more than the second that a request has to arrive. Nobody reads the second one's body meanwhile, so it is not
    its client that is slow."""
    trap_model(tmp_path / "toy")
    with GatedServer(tmp_path, slots=1, receive_seconds=1.0) as server, connected(server) as line:
        server.close_gate()
        line.send(post(TOY, pictures.encoded(trapped()), "X-Request-Id: first") + second)
        time.sleep(1.5)  # the second has passed
        server.open_gate()
        reply = line.reply()
        assert reply.status == 200, reply
        assert reply.headers["x-request-id"] == "first"


# ---- pieces ----


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("size", [997, 65_536, 10_000_000], ids=str)
def test_a_large_body_may_come_in_any_pieces(server: Server, size: int) -> None:
    image = pictures.png(700, 500)
    with connected(server) as line:
        line.send(infer(image))
        expected = outputs(line.reply())
        line.send(*pieces(infer(image), size))
        assert outputs(line.reply()) == like(expected)


@pytest.mark.parametrize("cut", [-4, -3, -2, -1, 0, 1, 5])
def test_the_heads_end_may_be_split(server: Server, cut: int) -> None:
    request = infer()
    end = request.index(b"\r\n\r\n") + 4
    with connected(server) as line:
        line.send(request)
        expected = outputs(line.reply())
        line.send(request[: end + cut])
        assert not line.heard(0.02)
        line.send(request[end + cut :])
        assert outputs(line.reply()) == like(expected)


def test_a_body_of_65000_one_byte_chunks_is_answered_like_a_whole_one(server: Server) -> None:
    image = pictures.encoded(pictures.pixels(200, 107), "BMP")[:65_000]
    assert len(image) > 60_000
    body, length = infer_json(image)
    with connected(server) as line:
        line.send(infer(image))
        expected = outputs(line.reply())
        line.send(chunked(INFER, [bytes([b]) for b in body], f"Inference-Header-Content-Length: {length}"))
        assert outputs(line.reply()) == like(expected)
        line.send(post(PREDICT, image))
        whole = top(line.reply())
        line.send(chunked(PREDICT, [bytes([b]) for b in image]))
        assert top(line.reply()) == like(whole)


def test_a_client_that_expects_100_continue_is_told_to(server: Server) -> None:
    with connected(server) as line:
        request = infer(IMAGE, "Expect: 100-continue")
        end = request.index(b"\r\n\r\n") + 4
        line.send(request[:end])
        assert line.reply().status == 100
        line.send(request[end:])
        assert outputs(line.reply())


def test_a_client_that_asks_first_is_spared_sending_too_much(server: Server) -> None:
    with connected(server) as line:
        request = post(INFER, b"x" * (MAX_BYTES + 1), "Expect: 100-continue")
        line.send(request[: request.index(b"\r\n\r\n") + 4])
        line.reply().error(413, "too_large")


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
    with connected(server) as line:
        line.send(f"{method} {path} HTTP/1.1\r\nHost: tests\r\nContent-Length: 0\r\n\r\n".encode())
        reply = line.reply()
        reply.error(status, code)
        assert ("allow" in reply.headers) == (status == 405)
        line.send(GET)
        assert line.reply().status == 200


@pytest.mark.parametrize("path", ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/cifar10/config"])
def test_head_is_get_without_its_body(server: Server, path: str) -> None:
    with connected(server) as line:
        line.send(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        whole = line.reply()
        line.send(f"HEAD {path} HTTP/1.1\r\n\r\n".encode(), GET)
        reply = line.reply("HEAD")
        assert reply.status == whole.status == 200
        assert reply.headers["content-length"] == str(len(whole.body))
        assert line.reply().status == 200


def test_infer_needs_no_content_type(server: Server) -> None:
    with connected(server) as line:
        line.send(infer(), infer(IMAGE, "Content-Type: text/plain"), infer(IMAGE, "Content-Type: application/json"))
        expected = like(outputs(line.reply()))
        assert outputs(line.reply()) == expected
        assert outputs(line.reply()) == expected


# ---- who leaves ----


@pytest.mark.parametrize("path", [PREDICT, INFER, "/v2/repository/index"])
def test_who_leaves_in_the_middle_of_a_body_leaves_one_line_in_the_log(narrow: Server, path: str) -> None:
    name = f"left-{path.count('/')}-{len(path)}"
    with connected(narrow) as line:
        line.send(post(path, b"x" * 9000, f"X-Request-Id: {name}")[:-4000])
    narrow.wait_for(name, "stdout")
    (entry,) = [json.loads(found) for found in narrow.lines["stdout"] if name in found]
    assert (entry["event"], entry["status"], entry["code"]) == ("error", 499, "cancelled")
    assert "Traceback" not in "".join(narrow.lines["stderr"])


def test_many_who_leave_at_any_byte_hurt_nobody(narrow: Server) -> None:
    request = infer()

    def leave(at: int) -> None:
        with connected(narrow) as line:
            line.send(request[:at])
            line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", at % 2, 0))

    with ThreadPoolExecutor(4) as clients, narrow.client() as client:
        list(clients.map(leave, range(1, len(request), 53)))
        until(lambda: client.post(PREDICT, content=IMAGE).status_code == 200)
    assert "Traceback" not in "".join(narrow.lines["stderr"])
