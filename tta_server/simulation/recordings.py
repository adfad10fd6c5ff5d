"""The files that a scenario names: a trace of arrivals, runs of images, a calibration."""

import csv
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tta_server.calibration.fit import Run
from tta_server.errors import ConfigError
from tta_server.errors.validation import explain, explain_value
from tta_server.repository.calibration import Calibration, parse_calibration
from tta_server.simulation.costs import RecordedNoise
from tta_server.simulation.scenario import Positive, Views


class CsvRow(BaseModel):
    """A row of a CSV file; an empty value means none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TraceRow(CsvRow):
    """Columns of a trace; the traffic that names it gives what a row leaves out."""

    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    model: str | None = None
    budget_ms: Positive | None = None
    views: Views | None = None


class DurationRow(CsvRow):
    """Columns of recorded durations: when a `step` started and how long it took; `view` is a batch of `views` views."""

    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    step: Literal["decode", "view", "finish"]
    views: Views = 1
    ms: Positive


class MarginRow(CsvRow):
    """Columns of `tta-server calibrate --log`: the merged answer to an image after a number of views."""

    image: str
    views: Views
    margin: Annotated[float, Field(ge=0, le=1)]
    label: int


R = TypeVar("R", bound=CsvRow)


def read_trace(path: Path) -> list[TraceRow]:
    """In order of arrival, the first at 0 s. Raises ConfigError with file, line, what was found and what is allowed."""
    rows = sorted(_read_rows(path, TraceRow), key=lambda row: row.seconds)
    if not rows:
        raise ConfigError(f"{path}: holds no arrivals, only a heading")
    return [row.model_copy(update={"seconds": row.seconds - rows[0].seconds}) for row in rows]


def read_durations(path: Path) -> RecordedNoise:
    """The factors by which steps took longer than the median step of their kind. Raises ConfigError."""
    kinds: dict[tuple[str, int], list[DurationRow]] = {}
    for row in _read_rows(path, DurationRow):
        kinds.setdefault((row.step, row.views), []).append(row)
    if not kinds:
        raise ConfigError(f"{path}: holds no durations, only a heading")
    factors: dict[str, list[tuple[float, float]]] = {}
    for (step, _), rows in kinds.items():
        median = statistics.median(row.ms for row in rows)
        factors.setdefault(step, []).extend((row.seconds, row.ms / median) for row in rows)
    return RecordedNoise({step: sorted(rows) for step, rows in factors.items()})


def read_runs(path: Path, views: int) -> list[Run]:
    """The run of every image, of at least `views` views each. Raises ConfigError."""
    images: dict[str, dict[int, MarginRow]] = {}
    for row in _read_rows(path, MarginRow):
        images.setdefault(row.image, {})[row.views] = row
    for image, rows in images.items():
        missing = next((k for k in range(1, views + 1) if k not in rows), None)
        if missing:
            raise ConfigError(f"{path}: image {image} has no line for {missing} views; the traffic requests {views}")
    if not images:
        raise ConfigError(f"{path}: holds no images, only a heading")
    ordered = ([rows[k] for k in sorted(rows)] for rows in images.values())
    return [Run([row.margin for row in rows], [row.label for row in rows]) for rows in ordered]


def read_calibration_file(path: Path) -> Calibration:
    """A `calibration.json` of any model. Raises ConfigError."""
    try:
        return parse_calibration(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
    except ConfigError as mistake:
        raise ConfigError(f"{path}: is no calibration: {mistake}") from None


def _read_rows(path: Path, kind: type[R]) -> Iterator[R]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            _check_heading(path, rows.fieldnames or (), kind)
            for row in rows:
                yield _parse_row(path, rows.line_num, row, kind)
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: is not a CSV file in UTF-8") from error


def _check_heading(path: Path, found: Any, kind: type[R]) -> None:
    fields = kind.model_fields
    for name, field in fields.items():
        if field.is_required() and name not in found:
            raise ConfigError(f"{path}: has no column {name}; its first line names them: {', '.join(fields)}")
    for name in found:
        if name not in fields:
            raise ConfigError(f"{path}: unknown column {name}; known: {', '.join(fields)}")


def _parse_row(path: Path, number: int, row: dict[str | Any, Any], kind: type[R]) -> R:
    if None in row:
        raise ConfigError(f"{path}: line {number} has more values than there are columns")
    values = {name: value for name, value in row.items() if value not in ("", None)}
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        mistake = explain(error, values, kind)[0]
        raise ConfigError(f"{path}: line {number}: {explain_value(mistake, list(kind.model_fields))}") from None
