"""The options of `tta-server score` that no other command has."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tta_server.cli.options import Command

UNDER_WAY = 64
"""Requests to a server at once, at most."""
LEAST_IMAGES = 1000
"""Images from which on processes gain more than the seconds that they take to start."""
SERVER = "A running server"
"""Heading in the help."""

InputArgument = Annotated[
    str,
    typer.Argument(
        help="A folder, a pattern in quotes like 'photos/*.jpg', a list of paths (.txt), a column of paths or of "
        "images' bytes in a table (.csv, .parquet), or an archive (.tar); all of them also at a URL like "
        "s3://bucket/photos.",
        show_default=False,
    ),
]
OutOption = Annotated[
    Path, typer.Option("--out", "-o", help="Folder of the results; the same command goes on where it was stopped.")
]
ColumnOption = Annotated[str | None, typer.Option(help="Column of a table that holds the images.")]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        help="parquet, jsonl, csv (a row an image, box or point), coco (boxes, points, masks) or yolo (boxes); "
        "default: parquet where pyarrow is installed, else jsonl.",
    ),
]
MasksOption = Annotated[
    str | None,
    typer.Option(help="Masks in parquet and jsonl: png or rle (COCO's run lengths, for pycocotools); default: png."),
]
MinViewsOption = Annotated[
    str | None, typer.Option(help="Run at least this many views, or fail; `all`: every planned view.")
]
TopKOption = Annotated[int, typer.Option("--top-k", min=1, help="Number of classes to list.")]
BatchOption = Annotated[
    int | None,
    typer.Option("--batch", "-b", min=1, max=1024, help="Views of a batch; default: measured at the first start."),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1024,
        help="Score with threads; default: one a core, where processes are not the default. With --url the most "
        f"requests under way at once, by default {UNDER_WAY}; with --ray the CPUs of an actor, by default 1.",
    ),
]
ProcessesOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1024,
        help="Score with processes, each with a copy of the model; default: one a core for "
        f"{LEAST_IMAGES:,} images or more, if half of the free memory holds what the command takes once for each.",
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="Score with a running tta-server, such as http://host:8000, as priority=batch; --model is a name there.",
        rich_help_panel=SERVER,
    ),
]
KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--key-file", help="File with the server's key; or the key itself in TTA_KEY.", rich_help_panel=SERVER
    ),
]
CacertOption = Annotated[
    Path | None,
    typer.Option(help="PEM file of the authority of an https server's certificate.", rich_help_panel=SERVER),
]
GiveUpOption = Annotated[
    float,
    typer.Option(
        "--give-up-after",
        min=1,
        help="Seconds without an answered image after which the run ends; it can be resumed.",
        rich_help_panel=SERVER,
    ),
]
MaxFailuresOption = Annotated[
    str | None,
    typer.Option(help="End with status 3 once more images than this number, or share as in 1%, have failed."),
]
MetricsPortOption = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help="Serve metrics for Prometheus at /metrics while it runs; 0: any free port."),
]
MetricsHostOption = Annotated[
    str, typer.Option(help="Address of --metrics-port; with 0.0.0.0 other machines read them too.")
]
PlanOption = Annotated[
    bool, typer.Option("--plan", help="Score a few images and print the time and bytes that all would take.")
]
VerifyOption = Annotated[bool, typer.Option("--verify", help="Compare each shard with its digest in the ledger.")]
RAY = "--ray"
RayOption = Annotated[
    str | None,
    typer.Option(
        RAY,
        metavar="[ADDRESS]",
        help="Score on a Ray cluster: host:port, or without a value that of RAY_ADDRESS, else one on this machine.",
    ),
]
RayActorsOption = Annotated[
    str | None,
    typer.Option(
        metavar="MIN[:MAX]", help="Actors on the cluster, each with the model loaded; default: as many as fit its CPUs."
    ),
]
RayGpusOption = Annotated[
    float | None,
    typer.Option(min=0, max=8, help="GPUs of an actor; default: 1 if tta.yaml has `device: cuda`, else none."),
]


class ScoreCommand(Command):
    """`--ray` may stand without an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = []
        for word, following in zip(args, [*args[1:], "-"], strict=True):
            given += [word, ""] if word == RAY and following.startswith("-") else [word]
        return super().parse_args(ctx, given)
