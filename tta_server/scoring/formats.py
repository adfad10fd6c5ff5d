"""How the rows of a shard are stored. The same rows give the same bytes."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tta_server.errors import ConfigError
from tta_server.scoring.arrow import has_pyarrow, pyarrow
from tta_server.scoring.batches import Scored
from tta_server.scoring.columns import encode_parquet, parquet_row
from tta_server.scoring.rows import row_of


@dataclass(frozen=True, slots=True)
class Format:
    """`row` makes what is kept of an image until its shard is written, `encode` the file; both know the task's name."""

    name: str
    suffix: str
    row: Callable[[str, Scored], Any]
    encode: Callable[[str, Sequence[Any]], bytes]


def _json_row(task: str, scored: Scored) -> bytes:
    return json.dumps(row_of(scored), ensure_ascii=False).encode() + b"\n"


def _lines(task: str, rows: Sequence[bytes]) -> bytes:
    return b"".join(rows)


FORMATS: Mapping[str, Format] = {
    each.name: each
    for each in (
        Format("parquet", ".parquet", parquet_row, encode_parquet),
        Format("jsonl", ".jsonl", _json_row, _lines),
    )
}


def choose_format(name: str | None) -> Format:
    """The named one; by default Parquet where it is installed. Raises ConfigError."""
    if name is None:
        name = "parquet" if has_pyarrow() else "jsonl"
    if name not in FORMATS:
        raise ConfigError(f"--format takes {', '.join(FORMATS)}, not {name}")
    if name == "parquet":
        pyarrow()
    return FORMATS[name]
