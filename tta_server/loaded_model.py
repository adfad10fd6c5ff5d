"""`tta_server.load`: a model in this process, without a server."""

import logging
import os
import uuid
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import ValidationError

from tta_server.api.describe import model_notes
from tta_server.application import Application
from tta_server.errors import ConfigError
from tta_server.errors.validation import explain, explain_option
from tta_server.imaging.inputs import ImageLike, copy_image
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model
from tta_server.serving.answer import Answer
from tta_server.serving.caller import Caller
from tta_server.serving.options import as_query, read_options
from tta_server.serving.ticket import Ticket
from tta_server.settings import Settings
from tta_server.tasks import ResponseFormat

log = logging.getLogger(__name__)


class LoadedModel:
    """One model in this process, with all cores to itself. A context manager, or call `close`."""

    def __init__(self, app: Application) -> None:
        self._app = app
        (self._name,) = app.models

    def predict(self, image: ImageLike, **options: Any) -> Answer:
        """An image file's path or bytes, or upright RGB pixels (H, W, 3) uint8 -> the merged answer.

        `answer.result` has its arrays; `answer.prediction` is the JSON of them, made when it is first read.
        Takes the names of the HTTP query: budget_ms, policy (a preset or a list of views), max_views, min_views,
        merge, stop, top_k, include (a list of names). Without budget_ms the budget is the model's longest,
        `budget.max_ms`: no other client waits. Raises TTAError, and OSError for a file that can't be read.
        """
        future = self.submit(image, **options)
        try:
            return future.result()
        finally:
            future.cancel()  # frees its views if waiting was interrupted

    def submit(self, image: ImageLike, **options: Any) -> Future[Answer]:
        """As `predict`, without waiting, to have several images predicted at a time.

        The image is as it was when this returns, whatever is written into the array or the buffer later. Cancelling
        the future frees what is left of its views.
        """
        requested = read_options({"budget_ms": self.model.config.budget.max_ms} | as_query(options))
        requested = replace(requested, format=ResponseFormat.ARRAYS)
        data = copy_image(image, self._app.settings.limits)
        ticket = self._app.predictor.submit(self._name, data, requested, Caller(uuid.uuid4().hex))
        ticket.future.add_done_callback(partial(self._cancel_if_left, ticket))
        return ticket.future

    def _cancel_if_left(self, ticket: Ticket, future: Future[Answer]) -> None:
        if future.cancelled():
            self._app.predictor.cancel(ticket)

    @property
    def model(self) -> Model:
        return self._app.models[self._name]

    def close(self) -> None:
        self._app.close()

    def __enter__(self) -> "LoadedModel":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def load(
    folder: str | os.PathLike[str],
    slots: int | None = None,
    *,
    max_bytes: int | None = None,
    max_pixels: int | None = None,
    max_waiting_mb: int | None = None,
) -> LoadedModel:
    """Loads and warms the model in a folder like `models/clothing`; logs its warnings. Raises ConfigError.

    `slots` is the number of threads that run batches; `max_bytes` and `max_pixels` bound one image, `max_waiting_mb`
    the memory of all images not yet answered. Defaults are those of `tta-server serve`.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ConfigError(f"{path}: there is no such model folder")
    given = {"slots": slots, "max_bytes": max_bytes, "max_pixels": max_pixels, "max_waiting_mb": max_waiting_mb}
    values = {"models": path.parent} | {name: value for name, value in given.items() if value is not None}
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        mistake = explain(error, values, Settings)[0]
        raise ConfigError(explain_option(mistake, mistake.key)) from None
    app = Application(settings, [load_model(path)])
    try:
        app.warm()
    except BaseException:
        app.close()
        raise
    loaded = LoadedModel(app)
    for note in model_notes(loaded.model):
        log.warning("model %s: %s", loaded.model.name, note)
    return loaded
