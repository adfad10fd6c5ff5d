"""A model is shut out only while it fails a test card too, and let in again as soon as it does not."""

import threading
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
"""Seconds between two probes, as documented."""


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


def not_ready(client: httpx.Client) -> list[str]:
    """The models that `/readyz` lists while another one serves."""
    response = client.get("/readyz")
    assert response.status_code == 200
    return [entry["name"] for entry in response.json()["not_ready"]]


def wait_until_unhealthy(client: httpx.Client) -> None:
    """Asks until the server says that the model is not ready."""
    until(lambda: ask(client).status_code == 503)


def recover(client: httpx.Client) -> None:
    until(lambda: client.get("/readyz").json().get("not_ready") == [])


@pytest.mark.parametrize("mode", ["fails", "nan", pytest.param("hangs", marks=pytest.mark.slow)])
def test_a_model_that_keeps_failing_is_excluded_and_the_others_go_on(
    server: tuple[httpx.Client, Switchable], mode: str
) -> None:
    client, switch = server
    assert ask(client).status_code == 200
    switch.mode = mode
    assert [ask(client).status_code for _ in range(3)] == [502] * 3
    wait_until_unhealthy(client)
    ready = client.get("/readyz")
    assert ready.status_code == 200
    ((name, reason),) = [tuple(entry.values()) for entry in ready.json()["not_ready"]]
    assert (name, "model toy is unhealthy" in reason) == ("toy", True)
    described = client.get("/v1/models/toy").json()
    assert (described["state"], described["reason"]) == ("not_ready", reason)
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


def test_it_stays_excluded_while_it_fails(server: tuple[httpx.Client, Switchable]) -> None:
    """Until another probe."""
    client, switch = server
    switch.mode = "fails"
    wait_until_unhealthy(client)
    before = switch.batches

    def is_probed() -> bool:
        assert ask(client).status_code == 503
        return switch.batches > before

    until(is_probed)
    switch.mode = "works"
    recover(client)


@pytest.mark.parametrize("trap", ["fails", "nan"])
def test_images_that_a_model_fails_on_do_not_make_it_unhealthy(
    server: tuple[httpx.Client, Switchable], trap: str
) -> None:
    client, _ = server
    bad = pictures.encoded(trap_image(trap))
    for number in range(30):
        assert ask(client, image=bad).status_code == 502
        assert not_ready(client) == []
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
        refused = client.get("/readyz")
        assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
        sentence = refused.json()["error"]
        assert "model other is unhealthy" in sentence
        assert "; model toy is unhealthy" in sentence
        for _, switch in switched:
            switch.mode = "works"
        recover(client)


def test_with_strict_one_unhealthy_model_makes_the_server_not_ready(models: list[Model]) -> None:
    other, (toy, switch) = models[0], switchable(models[1])
    with serving(other, toy, strict=True) as client:
        assert not_ready(client) == []
        switch.mode = "fails"
        until(lambda: client.get("/readyz").status_code == 503 or not ask(client))
        assert "model toy is unhealthy" in client.get("/readyz").json()["error"]
        assert ask(client, "other").status_code == 200


def test_an_unhealthy_model_that_is_unloaded_is_forgotten_and_the_others_are_still_probed(models: list[Model]) -> None:
    switched = [switchable(model) for model in models]
    with serving(*(model for model, _ in switched), model_control=True) as client:
        switched[1][1].mode = "fails"
        wait_until_unhealthy(client)
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


def test_closing_does_not_wait_for_the_probe(models: list[Model]) -> None:
    toy, switch = switchable(models[1])
    with serving(toy) as client:
        switch.mode = "fails"
        wait_until_unhealthy(client)
    until(lambda: all(thread.name != "probe" for thread in threading.enumerate()))


def test_an_unexpected_error_does_not_end_the_probe() -> None:
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
    probe = ModelProbe(cast(Predictor, Models()), health)
    for name in ("first", "second"):
        for _ in range(FAILURES):
            health.failed(name)
    probe.start()
    assert again.wait(PATIENCE)
    probe.close()
    assert asked[:3] == ["first", "second", "first"]
