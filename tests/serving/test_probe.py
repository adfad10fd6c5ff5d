"""A model is shut out only while it fails a test card too, and let in again as soon as it does not."""

import threading
import time
from collections.abc import Iterator
from typing import cast

import httpx
import pytest

from tests.support import pictures
from tests.support.serving import PATIENCE, until
from tests.support.toys import Switchable, metric, serving, switchable, trap_image, trap_model
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model
from tta_server.serving.health import FAILURES, Health
from tta_server.serving.predictor import Predictor
from tta_server.serving.probe import ModelProbe

pytestmark = pytest.mark.timing

CALM = pictures.encoded(trap_image())
SECONDS = 1.0
"""Between two tries of the canary, as documented."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Model]:
    folder = tmp_path_factory.mktemp("models")
    return [load_model(trap_model(folder / name)) for name in ("other", "toy")]


@pytest.fixture
def server(models: list[Model]) -> Iterator[tuple[httpx.Client, Switchable]]:
    """Two models, of which `toy` can be switched."""
    other, toy = models
    toy, switch = switchable(toy)
    with serving(other, toy) as client:
        yield client, switch


def ask(client: httpx.Client, name: str = "toy", image: bytes = CALM) -> httpx.Response:
    return client.post(f"/v1/models/{name}/predict", content=image, params={"max_views": "1", "budget_ms": "5000"})


def readiness(client: httpx.Client, name: str) -> float:
    return metric(client, f'tta_model_ready{{model="{name}"}}')


def answers(client: httpx.Client) -> list[str]:
    """What is counted of answers; those of the probe are not."""
    return [line for line in client.get("/metrics").text.splitlines() if line.startswith(("tta_answers", "tta_views"))]


def fall_ill(client: httpx.Client) -> None:
    """Asks until the server says that it is not ready."""
    until(lambda: ask(client).status_code == 503)
    assert client.get("/readyz").status_code == 503


def recover(client: httpx.Client) -> None:
    until(lambda: client.get("/readyz").status_code == 200)


@pytest.mark.parametrize("mode", ["fails", "nan", pytest.param("hangs", marks=pytest.mark.slow)])
def test_a_model_that_keeps_failing_is_shut_out_and_the_others_go_on(
    server: tuple[httpx.Client, Switchable], mode: str
) -> None:
    client, switch = server
    assert ask(client).status_code == 200
    switch.mode = mode
    assert [ask(client).status_code for _ in range(3)] == [502] * 3
    fall_ill(client)
    unready = client.get("/readyz")
    assert unready.json()["code"] == "not_ready"
    assert "model toy is unhealthy" in unready.json()["error"]
    assert "other" not in unready.json()["error"]
    assert (readiness(client, "toy"), readiness(client, "other")) == (0, 1)
    refused = ask(client)
    assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
    assert "model toy is unhealthy" in refused.json()["error"]
    assert ask(client, "other").status_code == 200
    assert client.get("/livez").status_code == 200
    before = answers(client)
    switch.mode = "works"
    recover(client)
    assert answers(client) == before
    assert readiness(client, "toy") == 1
    assert ask(client).status_code == 200


def test_it_stays_shut_out_for_as_long_as_it_fails(server: tuple[httpx.Client, Switchable]) -> None:
    """Through another try of the canary."""
    client, switch = server
    switch.mode = "fails"
    fall_ill(client)
    end = time.monotonic() + 1.2 * SECONDS
    while time.monotonic() < end:
        assert ask(client).status_code == 503
    switch.mode = "works"
    recover(client)


@pytest.mark.parametrize("trap", ["fails", "nan"])
def test_images_that_a_model_cannot_take_shut_nobody_else_out(
    server: tuple[httpx.Client, Switchable], trap: str
) -> None:
    client, _ = server
    bad = pictures.encoded(trap_image(trap))
    for number in range(30):
        assert ask(client, image=bad).status_code == 502
        assert client.get("/readyz").status_code == 200
        if number % 5 == 4:
            assert ask(client).status_code == 200


@pytest.mark.slow
def test_both_are_named_where_both_fail(models: list[Model]) -> None:
    switched = [switchable(model) for model in models]
    with serving(*(model for model, _ in switched)) as client:
        for _, switch in switched:
            switch.mode = "fails"
        for name in ("toy", "other"):
            until(lambda name=name: ask(client, name).status_code == 503)
        sentence = client.get("/readyz").json()["error"]
        assert "model other is unhealthy" in sentence
        assert "; model toy is unhealthy" in sentence
        for _, switch in switched:
            switch.mode = "works"
        recover(client)


def test_an_ill_model_that_is_unloaded_is_forgotten_and_the_others_are_watched_on(models: list[Model]) -> None:
    switched = [switchable(model) for model in models]
    with serving(*(model for model, _ in switched), model_control=True) as client:
        switched[1][1].mode = "fails"
        fall_ill(client)
        assert client.post("/v2/repository/models/toy/unload").status_code == 200
        recover(client)
        assert readiness(client, "toy") == 0
        switched[0][1].mode = "fails"
        until(lambda: ask(client, "other").status_code == 503)
        switched[0][1].mode = "works"
        recover(client)
        assert ask(client, "other").status_code == 200


def test_a_cost_that_warm_up_found_too_high_is_corrected_once_a_budget_is_refused_for_it(models: list[Model]) -> None:
    """A machine that was busy at start must not refuse budgets for ever that it could keep."""
    toy, switch = switchable(models[1])
    switch.mode = "slow"
    with serving(toy) as client:
        switch.mode = "works"

        def hasty() -> httpx.Response:
            return client.post("/v1/models/toy/predict", content=CALM, params={"max_views": "1", "budget_ms": "150"})

        refused = hasty()
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_input")
        assert "give a budget of at least" in refused.json()["error"]
        until(lambda: hasty().status_code == 200)
        assert metric(client, 'tta_refusals_total{model="toy",reason="budget"}') >= 1


def test_closing_does_not_wait_for_the_canary(models: list[Model]) -> None:
    toy, switch = switchable(models[1])
    with serving(toy) as client:
        switch.mode = "fails"
        fall_ill(client)
    until(lambda: all(thread.name != "probe" for thread in threading.enumerate()))


def test_an_error_that_nobody_foresaw_does_not_end_the_canary() -> None:
    """The first model's card raises; the second is asked in the same round, and the first again in the next."""
    asked: list[str] = []
    again = threading.Event()

    class Models:
        def probe(self, name: str, image: bytes) -> None:
            raise AssertionError("no card was made")

        def model(self, name: str) -> Model:
            asked.append(name)
            if asked.count("first") == 2:
                again.set()
            raise LookupError(name)

    health = Health()
    canary = ModelProbe(cast(Predictor, Models()), health)
    for name in ("first", "second"):
        for _ in range(FAILURES):
            health.failed(name)
    canary.start()
    assert again.wait(PATIENCE)
    canary.close()
    assert asked[:3] == ["first", "second", "first"]
