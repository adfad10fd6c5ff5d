"""The Python API: one model in this process."""

import json
import os
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from pydantic import ValidationError

from tta_server.answer import Answer
from tta_server.app import Application, Settings
from tta_server.cores import available_cores
from tta_server.errors import ConfigError, InvalidInput, shown
from tta_server.explain import explain
from tta_server.inputs import ImageLike, own_image
from tta_server.predictor import Caller, Ticket
from tta_server.query import read_options
from tta_server.repository import Model, load_model

SPELLED = {
    "policy": "a preset's name or a list of views",
    "stop": "text, or a dict like {'epsilon': 0.01}",
    "include": "text or a list of names",
}
"""What may be given where HTTP has text."""


def as_query(options: Mapping[str, Any]) -> dict[str, Any]:
    """Python's spelling of the query's values: lists where HTTP has JSON and commas; None is as good as left out.
    Raises InvalidInput for what can't be spelled."""
    values = {key: value for key, value in options.items() if value is not None}
    for key, value in values.items():
        if isinstance(value, bool | np.bool_):
            raise InvalidInput(f"{key} takes no {value}; there is no option that is true or false")
        if key in SPELLED and not isinstance(value, str):
            values[key] = _spelled(key, value)
    return values


def _spelled(key: str, value: Any) -> str:
    if key == "include" and isinstance(value, Iterable) and not isinstance(value, bytes | Mapping):
        return ",".join(map(str, value))
    if key != "include" and isinstance(value, list | tuple | dict):
        return _json(key, value)
    raise InvalidInput(f"{key} takes {SPELLED[key]}, not {shown(value)}")


def _json(key: str, value: Any) -> str:
    try:
        return json.dumps(value, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{key} is made of text, numbers, lists and dicts: {str(error)[:100]}") from None


def _plain(value: Any) -> Any:
    """numpy's numbers and arrays as Python's own."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is none of these")


class LoadedModel:
    """One model in this process, with all cores to itself. A context manager, or call `close`."""

    def __init__(self, app: Application) -> None:
        self._app = app
        (self._name,) = app.models

    def predict(self, image: ImageLike, **options: Any) -> Answer:
        """An image file's path or bytes, or upright RGB pixels (H, W, 3) uint8 -> the merged answer.

        Takes the names of the HTTP query: budget_ms, policy (a preset or a list of views), max_views, min_views,
        merge, stop, top_k, include (a list of names). Without budget_ms the budget is the model's longest,
        `budget.max_ms`: no other client waits. Raises TTAError, and OSError for a file that can't be read.
        """
        future = self.submit(image, **options)
        try:
            return future.result()
        finally:
            future.cancel()  # of use where waiting was interrupted

    def submit(self, image: ImageLike, **options: Any) -> Future[Answer]:
        """As `predict`, without waiting: for several images at a time.

        The image is as it was when this returns, whatever is written into the array or the buffer later. Cancelling
        the future frees what is left of its views.
        """
        asked = read_options({"budget_ms": self.model.config.budget.max_ms} | as_query(options))
        data = own_image(image, self._app.settings.limits)
        ticket = self._app.predictor.submit(self._name, data, asked, Caller(uuid.uuid4().hex))
        ticket.future.add_done_callback(partial(self._left, ticket))
        return ticket.future

    def _left(self, ticket: Ticket, future: Future[Answer]) -> None:
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
    max_bytes: int = 20_000_000,
    max_pixels: int = 25_000_000,
    max_waiting_mb: int = 1000,
) -> LoadedModel:
    """Loads and warms the model in a folder like `models/clothing`; raises ConfigError.

    `max_bytes` and `max_pixels` bound one image, `max_waiting_mb` the memory of all that are not answered yet.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ConfigError(f"{path}: there is no such model folder")
    given = {"max_bytes": max_bytes, "max_pixels": max_pixels, "max_waiting_mb": max_waiting_mb}
    values = {"models": path.parent, "slots": available_cores() if slots is None else slots, **given}
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        mistake = explain(error, values, Settings)[0]
        raise ConfigError(f"{mistake.key} takes {mistake.text}, not {shown(mistake.found)}") from None
    app = Application(settings, [load_model(path)])
    try:
        app.warm()
    except BaseException:
        app.close()
        raise
    return LoadedModel(app)
