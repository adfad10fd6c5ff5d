"""A request that is cancelled while it is being admitted, at any moment, leaves no job behind."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import pictures
from tests.support.serving import PATIENCE, until
from tests.support.toys import Switchable, switchable, trap_image, trap_model
from tta_server.api.requests import LARGE_JPEG_BYTES, PredictCommand, RequestHandler, RequestInfo, has_slow_header
from tta_server.application import Application
from tta_server.repository.loader import load_model
from tta_server.serving.plan import Options
from tta_server.serving.ticket import Ticket
from tta_server.settings import Settings

LEFT = "tta_left_total"
OPTIONS = Options(budget_ms=10_000)


class SlowHeader(bytes):
    """An image whose header is not read before `release` is set."""

    entered: threading.Event
    release: threading.Event

    def __len__(self) -> int:
        self.entered.set()
        assert self.release.wait(PATIENCE)
        return super().__len__()


def slow_header() -> SlowHeader:
    image = SlowHeader(pictures.encoded(trap_image()))
    image.entered, image.release = threading.Event(), threading.Event()
    return image


@contextmanager
def blocked_application(folder: Path) -> Iterator[tuple[Application, Switchable]]:
    """An application with one slot, in which a view stays until the model is released."""
    model, switch = switchable(load_model(trap_model(folder / "toy")))
    application = Application(Settings(models=folder, slots=1, drain_seconds=1.0), [model])
    application.warm()
    switch.mode = "stuck"
    try:
        yield application, switch
    finally:
        switch.release.set()
        application.close()


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    with blocked_application(tmp_path_factory.mktemp("models")) as (ready, _):
        yield ready


def cancellations(application: Application) -> float:
    return application.metrics.registry.get_sample_value(LEFT, {"model": "toy"}) or 0.0


def jobs(application: Application) -> float:
    return application.metrics.registry.get_sample_value("tta_jobs") or 0.0


def submission(
    application: Application, *images: bytes, listener: Callable[[], None] | None = None
) -> asyncio.Task[list[Ticket]]:
    asked = PredictCommand(application.models["toy"], images, OPTIONS)
    return asyncio.ensure_future(
        RequestHandler(application).submit(asked, RequestInfo("one", "/"), time.monotonic(), listener)
    )


async def off_loop(wait: Callable[[], object]) -> None:
    await asyncio.get_running_loop().run_in_executor(None, wait)


def test_cancelled_while_the_header_is_read_cancels_the_job(application: Application) -> None:
    before = cancellations(application)

    async def run() -> None:
        image = slow_header()
        task = submission(application, pictures.encoded(trap_image()), image)
        await off_loop(lambda: image.entered.wait(PATIENCE))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        image.release.set()
        await off_loop(lambda: until(lambda: cancellations(application) == before + 2))

    asyncio.run(run())
    assert jobs(application) == 0


@pytest.mark.parametrize("turns", range(8))
def test_cancelled_at_the_moment_of_admission_cancels_the_job(application: Application, turns: int) -> None:
    """The tickets exist; the event loop has run `turns` iterations since, in some of which they are on their way."""
    before = cancellations(application)

    async def run() -> None:
        image = slow_header()
        task = submission(application, image)
        await off_loop(lambda: image.entered.wait(PATIENCE))
        image.release.set()
        until(lambda: jobs(application) == 1)  # blocks the event loop
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            tickets = await task
        except asyncio.CancelledError:
            pass
        else:
            RequestHandler(application).cancel(tickets)
        await off_loop(lambda: until(lambda: cancellations(application) == before + 1))

    asyncio.run(run())
    assert jobs(application) == 0


def test_cancelled_before_the_header_is_read_is_never_admitted(application: Application) -> None:
    before = cancellations(application)

    async def run() -> None:
        image = slow_header()
        image.release.set()
        task = submission(application, image)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not image.entered.is_set()

    asyncio.run(run())
    assert (cancellations(application), jobs(application)) == (before, 0)


@pytest.mark.parametrize(("images", "notified"), [(1, [1]), (2, [])])
def test_only_requests_of_one_image_have_partial_answers(tmp_path: Path, images: int, notified: list[int]) -> None:
    """With several images, no partial answers are made."""
    calls: list[int] = []
    with blocked_application(tmp_path) as (application, switch):
        switch.mode = "works"

        async def run() -> None:
            pixels = [pictures.encoded(trap_image())] * images
            tickets = await submission(application, *pixels, listener=lambda: calls.append(1))
            await RequestHandler(application).wait_for_answers(tickets)

        asyncio.run(run())
    assert calls == notified


def test_headers_of_small_jpegs_alone_are_read_on_the_event_loop() -> None:
    jpeg, png = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
    assert not has_slow_header([jpeg, jpeg.ljust(LARGE_JPEG_BYTES - 3)])
    assert has_slow_header([jpeg, jpeg.ljust(LARGE_JPEG_BYTES - 2)])
    assert has_slow_header([jpeg, png])
