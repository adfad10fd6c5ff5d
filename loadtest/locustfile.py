"""Users for locust: two models, three budgets, two priorities, real images, over HTTP and gRPC.

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8000

and then http://127.0.0.1:8089; `make load` runs them without a browser. loadtest/README.md explains the tables.

| variable | what it is | default |
|---|---|---|
| TTA_LOAD_DATA | folder with clothing/test/*/*.jpg and nuclei/images/*.png | shared/data beside the repository |
| TTA_LOAD_MODELS | folder of models, whose samples are sent where there is no data | models |
| TTA_LOAD_VIEWS | most views an answer may have | 8 |
| TTA_LOAD_GRPC | address of the gRPC port, like 127.0.0.1:8001; without it there are no gRPC users | |
| TTA_LOAD_CACERT | PEM file of the authorities of the server's certificate | the system's |
| TTA_KEY | the key to send | none |
"""

import os
import sys
import time
from typing import Any
from urllib.parse import urlencode

from gevent import ssl
from grpc.experimental import gevent
from locust import FastHttpUser, User, between, events, task
from locust.contrib.fasthttp import ResponseContextManager
from locust.env import Environment

from loadtest.grpc_client import GrpcClient
from loadtest.mix import VIEWS, Ask, Reply, Views, draw, exit_status, read_bodies
from loadtest.target import KEY

gevent.init_gevent()
BODIES = read_bodies()
SEEN = Views()
CACERT = os.environ.get("TTA_LOAD_CACERT") or None
GRPC = os.environ.get("TTA_LOAD_GRPC", "")
PAUSE = between(0.02, 0.2)


class HttpUser(FastHttpUser):
    """Pauses, then sends an image with a short, normal or long budget; waits after a refusal as long as it says."""

    wait_time = PAUSE
    insecure = False
    ssl_context_factory = staticmethod(lambda: ssl.create_default_context(cafile=CACERT))
    default_headers = {"Authorization": f"Bearer {os.environ[KEY]}"} if os.environ.get(KEY) else {}

    @task
    def predict(self) -> None:
        ask = draw(BODIES)
        query = {"budget_ms": f"{ask.budget_ms:g}", "max_views": VIEWS, "stop": "all", "priority": ask.priority}
        path = f"/v1/models/{ask.model}/predict?{urlencode(query)}"
        with self.client.post(path, data=ask.image, name=ask.name, catch_response=True) as response:
            reply = http_reply(response)
            if reply.retry_after_ms is not None:
                response.request_meta["name"] = ask.refused
            failure = reply.failure(ask)
            if failure:
                response.failure(failure)
            else:
                response.success()
        finish("POST", ask, reply)


def http_reply(response: ResponseContextManager) -> Reply:
    if response.status_code == 429:
        return Reply(retry_after_ms=response.json()["retry_after_ms"])
    if response.status_code != 200:
        return Reply(error=f"{response.status_code}: {(response.text or '')[:200]}")
    receipt = response.json()["receipt"]
    return Reply(len(receipt["views"]), receipt["elapsed_ms"])


class GrpcUser(User):
    """The same over gRPC: one request in two as a stream, whose time is that of the last response."""

    wait_time = PAUSE
    abstract = not GRPC

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        tls = str(environment.host or self.host or "").startswith("https:")
        self._client = GrpcClient(GRPC, os.environ.get(KEY, ""), tls, CACERT)

    @task
    def unary(self) -> None:
        self._predict("gRPC", self._client.infer)

    @task
    def streamed(self) -> None:
        self._predict("gRPC stream", self._client.stream)

    def _predict(self, protocol: str, call: Any) -> None:
        ask, start = draw(BODIES), time.perf_counter()
        reply: Reply = call(ask)
        failure = reply.failure(ask)
        self.environment.events.request.fire(
            request_type=protocol,
            name=ask.name if reply.retry_after_ms is None else ask.refused,
            response_time=(time.perf_counter() - start) * 1e3,
            response_length=0,
            exception=RuntimeError(failure) if failure else None,
            context={},
        )
        finish(protocol, ask, reply)


def finish(protocol: str, ask: Ask, reply: Reply) -> None:
    SEEN.add(protocol, ask, reply)
    if reply.retry_after_ms is not None:
        time.sleep(reply.retry_after_ms / 1e3)  # locust makes this a switch to another user


@events.quitting.add_listener
def quitting(environment: Environment, **_: object) -> None:
    entries = environment.stats.entries.items()
    counts = {f"{method} {name}": (each.num_requests, each.num_failures) for (name, method), each in entries}
    environment.process_exit_code = exit_status(counts)
    sys.stdout.write("\n".join(["", "Views of the answers", *SEEN.lines(), ""]))
