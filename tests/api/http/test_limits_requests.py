"""Raw requests to a real server: pipelined, in any pieces, of any method, and abandoned."""

import json
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import MAX_BYTES
from tests.support import pictures
from tests.support.connection import (
    GET,
    IMAGE,
    INFER,
    MAX_CONNECTIONS,
    PREDICT,
    TOY,
    chunked,
    connected,
    infer,
    infer_json,
    like,
    outputs,
    post,
    top,
)
from tests.support.gated import GatedServer
from tests.support.serving import Server, models_folder, until
from tests.support.toys import trap_image, trap_model

pytestmark = pytest.mark.timing


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Few connections, and the default time to receive."""
    folder = models_folder(tmp_path_factory.mktemp("models"), "cifar10")
    with Server(
        "--port", "0", "--slots", "2", "--models", str(folder), "--max-connections", str(MAX_CONNECTIONS)
    ) as running:
        assert running.url
        yield running


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
    """The first takes longer than the time to receive.

    The server does not read the second body meanwhile, so its client is not slow.
    """
    trap_model(tmp_path / "toy")
    with GatedServer(tmp_path, slots=1, receive_seconds=1.0) as server, connected(server) as connection:
        server.close_gate()
        connection.send(post(TOY, pictures.encoded(trap_image()), "X-Request-Id: first") + second)
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
        reply = connection.reply("MAX_HEAD")
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
