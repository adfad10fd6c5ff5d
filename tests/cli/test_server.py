"""How a server ends: what load balancers and clients see of it, over HTTP and gRPC."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from tests.support import pictures
from tests.support.balancer import Address, Balancer
from tests.support.gated import GatedServer
from tests.support.named import own
from tests.support.serving import PATIENCE, Server, until
from tests.support.toys import metric

IMAGE = pictures.png(8, 8)
PREDICT = "/v1/models/mine/predict?budget_ms=8000"
LONG = ("--shutdown-delay-seconds", str(PATIENCE))
"""Longer than a test; a second signal skips the rest."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    own(tmp_path / "models" / "mine")
    return tmp_path / "models"


def started(folder: Path, *more: str) -> Server:
    return Server("--port", "0", "--slots", "1", "--models", str(folder), *more)


def address(server: Server) -> Address:
    url = httpx.URL(server.url)
    return url.host, url.port or 80


# ---- one server ----


def test_with_a_delay_sigterm_ends_readiness_but_not_admission(folder: Path) -> None:
    with started(folder, *LONG) as server, server.client() as client, grpc.insecure_channel(server.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        assert client.post(PREDICT, content=IMAGE).headers.get("connection") is None
        server.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        paths = ("/readyz", "/v2/health/ready", "/v2/models/mine/ready")
        assert [client.get(path).status_code for path in paths] == [503, 503, 503]
        assert client.get("/livez").status_code == 200
        assert not stub.ServerReady(pb.ServerReadyRequest()).ready
        assert not stub.ModelReady(pb.ModelReadyRequest(name="mine")).ready
        for _ in range(3):
            answer = client.post(PREDICT, content=IMAGE)
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert len(stub.ModelInfer(infer_request()).outputs) > 0
        server.send_signal(signal.SIGTERM)
        assert server.exit_status() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_delay_ends_by_itself_and_is_not_waited_for_after_ctrl_c(folder: Path, number: signal.Signals) -> None:
    seconds = "0.3" if number == signal.SIGTERM else str(10 * PATIENCE)
    with started(folder, "--shutdown-delay-seconds", seconds) as server:
        assert httpx.get(server.url + "/readyz").status_code == 200
        server.send_signal(number)
        assert server.exit_status() == 0
        assert "Traceback" not in "".join(server.lines["stderr"])


def test_a_request_under_way_at_sigterm_ends_its_connection_too(folder: Path) -> None:
    with (
        GatedServer(folder, slots=1, shutdown_delay_seconds=PATIENCE) as server,
        server.client() as client,
        server.client() as other,
        ThreadPoolExecutor(1) as pool,
    ):
        server.close_gate()
        under_way = pool.submit(client.post, PREDICT, content=IMAGE)
        until(lambda: metric(other, "tta_jobs") == 1)
        server.send_signal(signal.SIGTERM)
        until(lambda: other.get("/livez").headers.get("connection") == "close")
        server.open_gate()
        answer = under_way.result(PATIENCE)
        assert (answer.status_code, answer.headers.get("connection")) == (200, "close")
        server.send_signal(signal.SIGTERM)
        assert server.exit_status() == 0


def infer_request() -> pb.ModelInferRequest:
    tensor = pb.ModelInferRequest.InferInputTensor(name="IMAGE", datatype="BYTES", shape=[1, 1])
    tensor.contents.bytes_contents.append(IMAGE)
    request = pb.ModelInferRequest(model_name="mine", inputs=[tensor])
    request.parameters["timeout"].int64_param = 8_000_000
    return request


# ---- several ----

SERVICE = """{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}"""


class Load:
    """Results of requests, or errors, one sent every 20 ms whether or not earlier ones are answered."""

    def __init__(self) -> None:
        self.results: list[str] = []
        self.stop = threading.Event()

    def wait_for_more(self, count: int) -> None:
        """Wait for answers to requests that are sent from now on, besides those under way."""
        before = len(self.results)
        until(lambda: len(self.results) >= before + count)


Send = Callable[[], Awaitable[object]]


@contextmanager
def load(sender: AbstractAsyncContextManager[Send]) -> Iterator[Load]:
    seen = Load()

    async def one(send: Send) -> None:
        try:
            seen.results.append(str(await send()))
        except (httpx.HTTPError, grpc.RpcError) as error:
            seen.results.append(repr(error))

    async def all_of_them() -> None:
        async with sender as send, asyncio.TaskGroup() as tasks:
            while not seen.stop.is_set():
                tasks.create_task(one(send))
                await asyncio.sleep(0.02)

    thread = threading.Thread(target=asyncio.run, args=(all_of_them(),))
    thread.start()
    try:
        yield seen
    finally:
        seen.stop.set()
        thread.join()


@asynccontextmanager
async def over_http(url: str) -> AsyncIterator[Send]:
    """Sends an image; returns the status."""

    async def send() -> int:
        return (await client.post(url + PREDICT, content=IMAGE)).status_code

    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        yield send


@asynccontextmanager
async def over_grpc(*servers: str) -> AsyncIterator[Send]:
    """The same with gRPC's own load balancing, round robin over servers whose health check says SERVING."""

    async def send() -> str:
        return str((await stub.ModelInfer(infer_request(), timeout=PATIENCE)).model_name)

    options = [("grpc.service_config", SERVICE)]
    async with grpc.aio.insecure_channel("ipv4:" + ",".join(servers), options) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        yield send


@pytest.mark.slow
def test_a_rolling_update_behind_a_load_balancer_loses_no_request(folder: Path) -> None:
    olds = [started(folder, *LONG), started(folder, *LONG)]
    news = []
    try:
        with Balancer() as balancer:
            for old in olds:
                balancer.add(address(old))
                until(lambda old=old: balancer.is_ready(address(old)))
            with load(over_http(balancer.url)) as seen:
                for old in olds:
                    news.append(started(folder))
                    balancer.add(address(news[-1]))
                    until(lambda: balancer.is_ready(address(news[-1])))
                    seen.wait_for_more(10)
                    leave(balancer, old, seen)
                seen.wait_for_more(10)
        assert set(seen.results) == {"200"}
        assert not balancer.lost
        assert all(balancer.answered[address(server)] for server in (*olds, *news))
    finally:
        for server in (*olds, *news):
            server.__exit__()


def leave(balancer: Balancer, old: Server, seen: Load) -> None:
    """The signal; the balancer notices; what is under way is answered; the end."""
    place = address(old)
    old.send_signal(signal.SIGTERM)
    until(lambda: not balancer.is_ready(place) and not balancer.in_flight(place))
    assert old.process.poll() is None
    seen.wait_for_more(5)
    old.send_signal(signal.SIGTERM)
    assert old.exit_status() == 0
    balancer.remove(place)


def test_of_two_servers_one_that_is_killed_fails_only_what_it_had(folder: Path, tmp_path: Path) -> None:
    """The killed one has five requests at a gate; the other one goes on."""
    own(tmp_path / "gated" / "mine")
    with Balancer() as balancer, GatedServer(tmp_path / "gated", slots=1) as doomed, started(folder) as other:
        for server in (doomed, other):
            balancer.add(address(server))
            until(lambda server=server: balancer.is_ready(address(server)))

        def predict(_: int) -> int:
            try:
                return httpx.post(balancer.url + PREDICT, content=IMAGE, timeout=PATIENCE).status_code
            except httpx.HTTPError:
                return 0

        doomed.close_gate()
        with ThreadPoolExecutor(10) as pool:
            under_way = [pool.submit(predict, number) for number in range(10)]
            until(lambda: sum(future.done() for future in under_way) == 5 and balancer.in_flight(address(doomed)) == 5)
            assert all(future.result() == 200 for future in under_way if future.done())
            doomed.process.kill()
            assert sorted(future.result() for future in under_way) == [0] * 5 + [200] * 5
            assert list(pool.map(predict, range(10))) == [200] * 10
        assert balancer.lost == {address(doomed): 5}


@pytest.mark.slow
def test_a_grpc_client_that_watches_health_loses_no_call(folder: Path) -> None:
    with (
        started(folder, *LONG) as old,
        started(folder) as other,
        load(over_grpc(old.grpc, other.grpc)) as seen,
    ):
        seen.wait_for_more(20)
        old.send_signal(signal.SIGTERM)
        until(lambda: answers_stopped(old, seen))
        old.send_signal(signal.SIGTERM)
        assert old.exit_status() == 0
        seen.wait_for_more(20)
    assert set(seen.results) == {"mine"}


def answers_stopped(server: Server, seen: Load) -> bool:
    """True if none of the next 20 calls is answered by that server."""
    before = sum('"model": "mine"' in line for line in server.lines["stdout"])
    seen.wait_for_more(20)
    return before == sum('"model": "mine"' in line for line in server.lines["stdout"])
