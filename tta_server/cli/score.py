"""`tta-server score`: scores many images into a folder, each exactly once."""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from tta_server.cli.console import err, loading, note, out, problem, warn
from tta_server.cli.files import model_folder
from tta_server.cli.options import (
    MaxBytesOption,
    MaxPixelsOption,
    MergeOption,
    ModelOption,
    ModelsOption,
    PolicyOption,
)
from tta_server.cli.predict import IncludeOption, MaxViewsOption, StopOption
from tta_server.cli.score_metrics import Endpoint, ScoreMetrics, endpoint, serve_metrics
from tta_server.cli.score_options import (
    BatchOption,
    ColumnOption,
    FormatOption,
    InputArgument,
    MasksOption,
    MaxFailuresOption,
    MetricsHostOption,
    MetricsPortOption,
    MinViewsOption,
    OutOption,
    PlanOption,
    ThreadsOption,
    TopKOption,
    VerifyOption,
)
from tta_server.cli.score_progress import ScoreProgress, forecast, summary
from tta_server.cli.score_remote import ServerOptions, read_server, remote_plan, takes_server
from tta_server.cli.sources import read_settings
from tta_server.errors import ConfigError
from tta_server.imaging.decoding import Limits
from tta_server.repository.described import is_described
from tta_server.scoring.batch_size import measure_batch
from tta_server.scoring.failures import FailureLimit, read_limit
from tta_server.scoring.formats import Format, check_fits, choose_format, choose_masks
from tta_server.scoring.inputs import Inputs, open_inputs
from tta_server.scoring.manifest import digest_inputs, fingerprint
from tta_server.scoring.output import OutputFolder
from tta_server.scoring.remote import RemotePlan
from tta_server.scoring.run import Run, Task
from tta_server.scoring.scorer import open_plan, read_scoring_options
from tta_server.serving.cores import available_cores
from tta_server.serving.plan import Plan

TOO_MANY_FAILED, INTERRUPTED = 3, 130
"""Exit statuses."""


@dataclass(frozen=True, slots=True)
class What:
    """Which images go through which model (a name, or a folder), and where to."""

    source: str
    column: str | None
    model: str
    output: OutputFolder
    format: Format


@dataclass(frozen=True, slots=True)
class How:
    """Options of a run that are none of the model's; `where` is the model's folder, or the server that has it."""

    where: Path | ServerOptions
    batch: int | None
    threads: int | None
    limit: FailureLimit | None
    metrics: Endpoint | None


@takes_server
def score(
    source: InputArgument,
    model: ModelOption,
    to: OutOption,
    models: ModelsOption = None,
    column: ColumnOption = None,
    format_name: FormatOption = None,
    masks: MasksOption = None,
    policy: PolicyOption = None,
    max_views: MaxViewsOption = None,
    min_views: MinViewsOption = None,
    merge: MergeOption = None,
    stop: StopOption = None,
    top_k: TopKOption = 5,
    include: IncludeOption = "",
    batch: BatchOption = None,
    threads: ThreadsOption = None,
    max_failures: MaxFailuresOption = None,
    metrics_port: MetricsPortOption = None,
    metrics_host: MetricsHostOption = "127.0.0.1",
    max_bytes: MaxBytesOption = None,
    max_pixels: MaxPixelsOption = None,
    plan_only: PlanOption = False,
    verify_only: VerifyOption = False,
    **server: Any,
) -> None:
    """Score many images, here or with a running server, each exactly once; images that fail are rows too.

    A run that was stopped goes on with the same command; its results are the same to the byte, with --url within 1e-6.

    Example: tta-server score photos --model clothing --out scores
    """
    if verify_only:
        _verify(OutputFolder(to))
        return
    what = What(source, column, model, OutputFolder(to), choose_format(format_name))
    options: dict[str, Any] = {"policy": policy, "max_views": max_views, "merge": merge, "stop": stop, "top_k": top_k}
    options |= {"include": include, "min_views": _min_views(min_views), "masks": masks}
    settings = read_settings(models=models, max_bytes=max_bytes, max_pixels=max_pixels)
    where = read_server(server, threads, models, batch, max_pixels) or _folder(settings.models, model)
    how = How(where, batch, threads, read_limit(max_failures), endpoint(metrics_host, metrics_port))
    _start(what, options, settings.limits, how, plan_only)


def _start(what: What, options: dict[str, Any], limits: Limits, how: How, plan_only: bool) -> None:
    masks = choose_masks(what.format, options["masks"])
    inputs = _listed(what)
    with _opened(how.where, what.model, options | {"masks": masks}) as plan:
        task = Task(plan, inputs, limits, what.output, what.format)
        check_fits(what.format, task.schema, options["masks"])
        (_forecast if plan_only else _score)(task, how)


def _listed(what: What) -> Inputs:
    with loading(f"listing {what.source} ..."):
        inputs = open_inputs(what.source, what.column)
        what.format.check_ids(inputs.ids)
    for each in inputs.notes:
        warn(each)
    return inputs


def _folder(models: Path, model: str) -> Path:
    """Of a model by its name in a folder of models, or by its own folder."""
    return Path(model) if is_described(Path(model)) else model_folder(models, model)


def _opened(
    where: Path | ServerOptions, model: str, options: dict[str, Any]
) -> AbstractContextManager[Plan | RemotePlan]:
    return _loaded(where, options) if isinstance(where, Path) else remote_plan(where, model, options)


@contextmanager
def _loaded(folder: Path, options: dict[str, Any]) -> Iterator[Plan]:
    with loading(f"loading {folder.name} ..."):
        plan = open_plan(folder, read_scoring_options(options))
    for finding in plan.model.observed.warnings:
        warn(finding.sentence)
    with closing(plan.model.backend):
        yield plan


def _forecast(task: Task, how: How) -> None:
    with loading("scoring a few images ..."):
        found = forecast(task, _batch(task, how), _threads(task, how))
    out.print(found)


def _score(task: Task, how: How) -> None:
    with task.output.locked():
        with loading("measuring ..."):
            batch = _batch(task, how)
            task.output.begin({"inputs": digest_inputs(task.inputs.marks()), **_made_of(task, how, batch)})
        _run(task, batch, how)


def _made_of(task: Task, how: How, batch: int) -> Mapping[str, Any]:
    if isinstance(task.plan, RemotePlan):
        return task.plan.fingerprint(task.format.name, task.limits)
    assert isinstance(how.where, Path)
    return fingerprint(task.plan, how.where, batch, task.format.name, task.limits)


def _batch(task: Task, how: How) -> int:
    """The given size, that of the run that is resumed, or the one measured; requests have one image each."""
    if isinstance(task.plan, RemotePlan):
        return 1
    return how.batch or _batch_before(task.output) or measure_batch(task.plan)


def _threads(task: Task, how: How) -> int:
    return task.plan.most if isinstance(task.plan, RemotePlan) else how.threads or available_cores()


def _run(task: Task, batch: int, how: How) -> None:
    done, total, limit = task.output.entries(), task.images, how.limit
    with ExitStack() as stack:
        progress = stack.enter_context(ScoreProgress(total, done.values()))
        run = Run(task, batch, done, progress.add)
        progress.on_failure(lambda failed: run.stop() if limit and limit.is_passed(failed, total) else None)
        if how.metrics:
            stack.enter_context(serve_metrics(ScoreMetrics(progress, run.entries), how.metrics))
        interrupted = stack.enter_context(_interruptible(run))
        run.run(_threads(task, how))
    task.finish(run.entries)
    err.print(summary(run.entries.values(), task, progress))
    if interrupted:
        note("stopped; the same command goes on from here")
        raise typer.Exit(INTERRUPTED)
    if limit and limit.is_passed(progress.failed, total):
        problem(f"more images failed than --max-failures {limit.text} allows")
        raise typer.Exit(TOO_MANY_FAILED)


@contextmanager
def _interruptible(run: Run) -> Iterator[list[int]]:
    """The first Ctrl-C or SIGTERM ends the run after the shard under way, the second at once."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        if received:
            os._exit(INTERRUPTED)
        received.append(number)
        run.stop()
        note("ending after the shard under way; once more ends at once")

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _min_views(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def _batch_before(output: OutputFolder) -> int | None:
    """The batch size of the run that is resumed."""
    found = (output.read_manifest() or {}).get("batch")
    return found if isinstance(found, int) else None


def _verify(output: OutputFolder) -> None:
    """Raises ConfigError that names the shards that are damaged."""
    manifest = output.read_manifest()
    if manifest is None:
        raise ConfigError(f"{output.folder}: holds no run; give --out the folder of one")
    if damaged := list(output.damaged()):
        raise ConfigError(
            f"{', '.join(map(str, damaged))}: not as it was written; delete it, and the same command scores it again"
        )
    entries, images = output.ledger().values(), manifest["inputs"]["images"]
    scored = sum(entry.images for entry in entries)
    shards = "1 shard is" if len(entries) == 1 else f"{len(entries)} shards are"
    out.print(f"{shards} as written: {scored} of {images} images")
