"""Load against a server with keys and TLS: the generator over HTTP, and the gRPC client, unary and as a stream."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from loadtest.cases import BUDGETS_MS, Case
from loadtest.generator import closed_loop, open_loop, poisson
from loadtest.grpc_client import GrpcClient
from loadtest.mix import Ask
from loadtest.report import outcome
from loadtest.target import Target
from tests.support import pictures
from tests.support.certificates import make_certificate
from tests.support.gated import GatedServer
from tests.support.named import own
from tests.support.serving import PATIENCE, Server, until

KEY = "a-key-of-the-load-test"
IMAGE = pictures.png(8, 8)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget that a busy machine keeps."""
    monkeypatch.setitem(BUDGETS_MS, "clothing", 4000.0)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    return make_certificate(folder / "cert.pem", folder / "key.pem")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    own(folder / "clothing")
    (folder / "keys").write_text(KEY)
    tls = ("--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]), "--keys", str(folder / "keys"))
    with Server("--port", "0", "--slots", "1", "--models", str(folder), *tls) as running:
        running.wait_for("ready: https://")
        yield running


@pytest.fixture
def target(server: Server, certificate: tuple[Path, Path]) -> Target:
    return Target(server.wait_for(r"ready: (https://\S+)").group(1), KEY, certificate[0])


@pytest.fixture
def case(tmp_path: Path) -> Case:
    (tmp_path / "image.png").write_bytes(IMAGE)
    return Case("clothing", (tmp_path / "image.png",), 8000.0, 2)


def test_the_closed_and_the_open_loop(target: Target, case: Case) -> None:
    assert target.max_budget_ms("clothing") == 20_000
    requests = case.requests("adaptive", headers=target.headers)
    shots = asyncio.run(closed_loop(target.address, requests, 0.1, 2, target.tls))
    times = poisson(40, 0.5, Random(0))
    shots += asyncio.run(open_loop(target.address, requests, times, PATIENCE, target.tls))
    assert len(shots) > len(times)
    assert {outcome(shot).status for shot in shots} == {200}


def test_without_the_key_nothing_is_answered(target: Target, case: Case) -> None:
    with pytest.raises(SystemExit, match="does not serve clothing: this server requires a key"):
        Target(target.url, cacert=target.cacert).max_budget_ms("clothing")
    with pytest.raises(SystemExit, match="CERTIFICATE_VERIFY_FAILED"):
        Target(target.url, KEY).max_budget_ms("clothing")
    shots = asyncio.run(open_loop(target.address, case.requests("adaptive"), [0.0], PATIENCE, target.tls))
    assert [outcome(shot).status for shot in shots] == [401]


@pytest.mark.parametrize("how", ["infer", "stream"])
def test_calls_over_grpc(server: Server, certificate: tuple[Path, Path], how: str) -> None:
    client = GrpcClient(server.grpc, KEY, tls=True, cacert=str(certificate[0]))
    ask = Ask("clothing", "long", "batch", IMAGE)
    reply = getattr(client, how)(ask)
    assert (reply.views, reply.failure(ask), reply.retry_after_ms) == (1, "", None)
    assert 0 < reply.elapsed_ms <= ask.budget_ms
    unknown = getattr(client, how)(Ask("clothing", "long", "batch", b"no image"))
    assert "format" in unknown.error
    assert unknown.retry_after_ms is None
    without = GrpcClient(server.grpc, tls=True, cacert=str(certificate[0]))
    assert getattr(without, how)(ask).error.startswith("UNAUTHENTICATED: this server requires a key")


def test_a_refusal_over_grpc_says_when_to_retry(tmp_path: Path) -> None:
    """Images wait at a gate until there is no place for more."""
    own(tmp_path / "clothing")
    ask = Ask("clothing", "long", "interactive", IMAGE)
    with GatedServer(tmp_path, slots=1, grpc=True, grpc_port=0, max_waiting=2) as server, ThreadPoolExecutor(6) as pool:
        client = GrpcClient(server.grpc)
        server.close_gate()
        under_way = [pool.submit(client.infer, ask) for _ in range(6)]
        until(lambda: any(each.done() for each in under_way))
        refused = [client.infer(ask), client.stream(ask)]
        server.open_gate()
        replies = [each.result() for each in under_way]
    assert all(reply.retry_after_ms and not reply.failure(ask) for reply in refused), refused
    assert any(reply.views for reply in replies)


def test_a_connection_that_the_server_closes_is_not_used_again(case: Case) -> None:
    """Each answer of this server ends its connection, as those of one that leaves do."""
    answer = b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\nConnection: close\r\n\r\n{}"
    opened = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(IMAGE))
        writer.write(answer)
        with pytest.raises(asyncio.IncompleteReadError):
            await reader.readexactly(1)
        writer.close()

    async def run() -> list[int]:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
            address = listening.sockets[0].getsockname()
            shots = await open_loop(address, case.requests("adaptive"), [0.0, 0.1, 0.2], PATIENCE)
        return [outcome(shot).status for shot in shots]

    assert asyncio.run(run()) == [503] * 3
    assert len(opened) == 3
