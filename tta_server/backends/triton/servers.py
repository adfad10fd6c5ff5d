"""Calls the servers of a model in turn over gRPC: an event loop on a thread of its own, one channel each."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from tta_server.backends.triton import Target

log = logging.getLogger(__name__)

T = TypeVar("T")
Headers = Sequence[tuple[str, str]]

INFER = "/inference.GRPCInferenceService/ModelInfer"
OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # models of one server don't share a connection's flow control
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 10_000),  # only while a call runs: servers close connections for more
    ("grpc.keepalive_timeout_ms", 5_000),
)
WATCH_SECONDS = 1.0
"""The pause between two looks at a server that does not answer, and how long each may take."""
LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND)
"""What a server answers that does not serve the model now; another server may."""


class RemoteError(Exception):
    """A server's answer to a call that failed; its text is for the log."""

    def __init__(self, url: str, status: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{url}: {status.name}: {details}")
        self.status = status
        self.details = details


class Server:
    """One server, as its calls find it; `is_ready` is false after one that it did not answer."""

    def __init__(self, url: str, target: Target) -> None:
        """Only on the event loop's thread."""
        self.url = url
        self.is_ready = True
        self._target = target
        self._metadata = target.headers or None
        self._channel = _open_channel(url, target)
        self._infer: Any = self._channel.unary_unary(INFER)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def infer(self, request: bytes, seconds: float, headers: Headers) -> bytes:
        """Raises RemoteError."""
        metadata = (*(self._metadata or ()), *headers) or None
        return await self._call(self._infer(request, timeout=seconds, metadata=metadata))

    async def call(self, method: str, request: Any, seconds: float) -> Any:
        """Any other call of the protocol. Raises RemoteError."""
        return await self._call(getattr(self._stub, method)(request, timeout=seconds, metadata=self._metadata))

    async def has_model(self, seconds: float) -> bool:
        """True if it serves the model now."""
        request = pb.ModelReadyRequest(name=self._target.model, version=self._target.version)
        try:
            return bool((await self.call("ModelReady", request, seconds)).ready)
        except RemoteError:
            return False

    async def _call(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise RemoteError(self.url, error.code(), error.details() or "") from None

    async def close(self) -> None:
        await self._channel.close()


def _open_channel(url: str, target: Target) -> grpc.aio.Channel:
    scheme, _, address = url.partition("://")
    if scheme == "grpc":
        return grpc.aio.insecure_channel(address, options=OPTIONS)
    return grpc.aio.secure_channel(
        address, grpc.ssl_channel_credentials(target.tls.ca, target.tls.key, target.tls.cert), options=OPTIONS
    )


class Servers:
    """The servers of a model. Methods are called on any thread, coroutines run on the event loop's."""

    def __init__(self, target: Target) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="triton", daemon=True)
        self._thread.start()
        self._watches: set[asyncio.Task[None]] = set()
        self._turn = 0
        self._all: Sequence[Server] = self.submit(self._open(target)).result()

    async def _open(self, target: Target) -> Sequence[Server]:
        return [Server(url, target) for url in target.urls]

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        """Starts a coroutine on the event loop; cancelling the future cancels its calls."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def infer(self, request: bytes, deadline: float, headers: Headers = ()) -> bytes:
        """One server's response, of those that are ready in turn, else of any. Raises RemoteError of the last.

        `headers` are sent beside those of the target.
        """
        for server in (order := self._in_turn()):
            try:
                return await server.infer(request, max(1e-3, deadline - time.monotonic()), headers)
            except RemoteError as error:
                if error.status in LOST or error.status is grpc.StatusCode.DEADLINE_EXCEEDED:
                    self._watch(server)
                if error.status not in LOST or server is order[-1]:
                    raise
        raise AssertionError("a model has at least one server")

    def _in_turn(self) -> list[Server]:
        self._turn += 1
        first = self._turn % len(self._all)
        return sorted((*self._all[first:], *self._all[:first]), key=lambda server: not server.is_ready)

    def _watch(self, server: Server) -> None:
        """Leaves a server out until it says that it serves the model."""
        if server.is_ready and len(self._all) > 1:
            server.is_ready = False
            log.warning("%s is left out until it answers again", server.url)
            task = self._loop.create_task(self._await_ready(server))
            self._watches.add(task)
            task.add_done_callback(self._watches.discard)

    async def _await_ready(self, server: Server) -> None:
        while not await server.has_model(WATCH_SECONDS):
            await asyncio.sleep(WATCH_SECONDS)
        server.is_ready = True
        log.warning("%s answers again", server.url)

    async def ask_each(self, ask: Callable[[Server], Awaitable[T]]) -> list[T | BaseException]:
        """What each server gives, or raises; one that raises is left out until it answers."""
        found = await asyncio.gather(*(ask(server) for server in self._all), return_exceptions=True)
        for server, each in zip(self._all, found, strict=True):
            if isinstance(each, BaseException):
                self._watch(server)
        return found

    def close(self) -> None:
        """Ends all calls, the connections and the thread; repeated calls do nothing."""
        if not self._loop.is_closed():
            self.submit(self._close()).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _close(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in self._all:
            await server.close()
