"""How the rows of a shard are stored. The same rows give the same bytes."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tta_server.errors import ConfigError
from tta_server.scoring.arrow import has_pyarrow, pyarrow
from tta_server.scoring.batches import Scored
from tta_server.scoring.coco import ANNOTATIONS, coco_row, coco_summaries, encode_coco
from tta_server.scoring.columns import encode_parquet, parquet_row
from tta_server.scoring.csv_rows import csv_rows, encode_csv
from tta_server.scoring.rows import row_of
from tta_server.scoring.schema import Schema
from tta_server.scoring.scorer import MASKS
from tta_server.scoring.yolo import check_label_paths, encode_yolo, yolo_row, yolo_summaries


def _no_summaries(schema: Schema, shards: Sequence[Path]) -> Iterator[tuple[str, Iterator[bytes]]]:
    yield from ()


def _any_ids(ids: Sequence[str]) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Format:
    """`row` makes what is kept of an image until its shard is written, `encode` the shard, whose first image is given.

    `summaries` are files of a whole run, by name, made of its shards. `tasks` are those that it can hold, `masks` how
    it stores masks, the default first. `check_ids` raises ConfigError for ids that it can't hold.
    """

    name: str
    suffix: str
    row: Callable[[Schema, Scored], Any]
    encode: Callable[[Schema, int, Sequence[Any]], bytes]
    tasks: frozenset[str] | None = None
    masks: Sequence[str] = MASKS
    check_ids: Callable[[Sequence[str]], None] = _any_ids
    summaries: Callable[[Schema, Sequence[Path]], Iterator[tuple[str, Iterator[bytes]]]] = _no_summaries

    def holds(self, task: str) -> bool:
        return self.tasks is None or task in self.tasks


def _json_row(schema: Schema, scored: Scored) -> bytes:
    return json.dumps(row_of(scored), ensure_ascii=False).encode() + b"\n"


def _lines(schema: Schema, first: int, rows: Sequence[bytes]) -> bytes:
    return b"".join(rows)


FORMATS: Mapping[str, Format] = {
    each.name: each
    for each in (
        Format("parquet", ".parquet", parquet_row, encode_parquet),
        Format("jsonl", ".jsonl", _json_row, _lines),
        Format("csv", ".csv", csv_rows, encode_csv, masks=("rle",)),
        Format(
            "coco", ".json", coco_row, encode_coco, frozenset(ANNOTATIONS), masks=("rle",), summaries=coco_summaries
        ),
        Format(
            "yolo", ".tar", yolo_row, encode_yolo, frozenset(["detection"]), check_ids=check_label_paths,
            summaries=yolo_summaries,
        ),
    )
}  # fmt: skip


def choose_format(name: str | None) -> Format:
    """The named one; by default Parquet where it is installed. Raises ConfigError."""
    if name is None:
        name = "parquet" if has_pyarrow() else "jsonl"
    if name not in FORMATS:
        raise ConfigError(f"--format takes {', '.join(FORMATS)}, not {name}")
    if name == "parquet":
        pyarrow()
    return FORMATS[name]


def choose_masks(stored: Format, masks: str | None) -> str:
    """How masks are stored. Raises ConfigError where the format has no such masks."""
    if masks is not None and masks not in MASKS:
        raise ConfigError(f"--masks takes {' or '.join(MASKS)}, not {masks}")
    if masks is not None and masks not in stored.masks:
        raise ConfigError(f"--format {stored.name} holds masks as {stored.masks[0]}, not {masks}; leave --masks out")
    return masks or stored.masks[0]


def check_fits(stored: Format, schema: Schema, masks: str | None) -> None:
    """Raises ConfigError where the format can't hold the model's answers; `masks` is the option as given."""
    if not stored.holds(schema.task):
        fitting = ", ".join(each.name for each in FORMATS.values() if each.holds(schema.task))
        raise ConfigError(f"--format {stored.name} does not hold {schema.task}; for {schema.model} use {fitting}")
    if masks is not None and schema.task != "segmentation":
        raise ConfigError(f"--masks is for segmentation, and {schema.model} does {schema.task}; leave --masks out")
    if stored.name == "csv" and schema.task == "embedding" and schema.dimensions is None:
        raise ConfigError(
            f"--format csv needs the length of the vectors, which {schema.model} does not state; use parquet"
        )
