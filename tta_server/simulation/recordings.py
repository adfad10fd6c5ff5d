"""The files that a scenario names: a trace of arrivals, what images showed after each view, a calibration."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tta_server.calibration.fit import Run
from tta_server.errors import ConfigError
from tta_server.errors.validation import explain, explain_value
from tta_server.repository.calibration import Calibration, parse_calibration
from tta_server.simulation.scenario import Positive, Views


class CsvLine(BaseModel):
    """One line of a CSV file; what is left empty is as good as left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Arrival(CsvLine):
    """Columns of a trace. What it does not state is as in the traffic that names it."""

    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    model: str | None = None
    budget_ms: Positive | None = None
    views: Views | None = None


class Look(CsvLine):
    """Columns of what `tta-server calibrate --log` writes: the merged answer after so many views of an image."""

    image: str
    views: Views
    margin: Annotated[float, Field(ge=0, le=1)]
    label: int


L = TypeVar("L", bound=CsvLine)


def read_trace(path: Path) -> list[Arrival]:
    """In order, the first at 0 s. Raises ConfigError that names file, line, what was found and what is allowed."""
    rows = sorted(_lines(path, Arrival), key=lambda row: row.seconds)
    if not rows:
        raise ConfigError(f"{path}: holds no arrivals, only a heading")
    return [row.model_copy(update={"seconds": row.seconds - rows[0].seconds}) for row in rows]


def read_trails(path: Path, views: int) -> list[Run]:
    """Of every image, with at least so many views. Raises ConfigError."""
    images: dict[str, dict[int, Look]] = {}
    for look in _lines(path, Look):
        images.setdefault(look.image, {})[look.views] = look
    for image, looks in images.items():
        missing = next((k for k in range(1, views + 1) if k not in looks), None)
        if missing:
            raise ConfigError(f"{path}: image {image} has no line for {missing} views; the traffic asks for {views}")
    if not images:
        raise ConfigError(f"{path}: holds no images, only a heading")
    ordered = ([looks[k] for k in sorted(looks)] for looks in images.values())
    return [Run([look.margin for look in looks], [look.label for look in looks]) for looks in ordered]


def read_table(path: Path) -> Calibration:
    """A `calibration.json`, whatever model it is of. Raises ConfigError."""
    try:
        return parse_calibration(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
    except ConfigError as mistake:
        raise ConfigError(f"{path}: is no calibration: {mistake}") from None


def _lines(path: Path, kind: type[L]) -> Iterator[L]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            _check_heading(path, rows.fieldnames or (), kind)
            for row in rows:
                yield _line(path, rows.line_num, row, kind)
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: is not a CSV file in UTF-8") from error


def _check_heading(path: Path, found: Any, kind: type[L]) -> None:
    fields = kind.model_fields
    for name, field in fields.items():
        if field.is_required() and name not in found:
            raise ConfigError(f"{path}: has no column {name}; its first line names them: {', '.join(fields)}")
    for name in found:
        if name not in fields:
            raise ConfigError(f"{path}: unknown column {name}; known: {', '.join(fields)}")


def _line(path: Path, number: int, row: dict[str | Any, Any], kind: type[L]) -> L:
    if None in row:
        raise ConfigError(f"{path}: line {number} has more values than there are columns")
    values = {name: value for name, value in row.items() if value not in ("", None)}
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        mistake = explain(error, values, kind)[0]
        raise ConfigError(f"{path}: line {number}: {explain_value(mistake, list(kind.model_fields))}") from None
