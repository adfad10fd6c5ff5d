"""`tta-server score`: scores many images into a folder, each exactly once."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tta_server.cli.console import loading, out, warn
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
from tta_server.cli.score_forecast import forecast
from tta_server.cli.score_metrics import endpoint
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
    ProcessesOption,
    RayActorsOption,
    RayGpusOption,
    RayOption,
    ThreadsOption,
    TopKOption,
    VerifyOption,
)
from tta_server.cli.score_progress import ScoreProgress
from tta_server.cli.score_ray import score_on_ray
from tta_server.cli.score_remote import ServerOptions, read_server, remote_plan, takes_server
from tta_server.cli.score_run import How, batch_before, run_to_end
from tta_server.cli.score_workers import check_options, choose_workers, ready
from tta_server.cli.sources import read_settings
from tta_server.errors import ConfigError
from tta_server.imaging.decoding import Limits
from tta_server.scoring.batch_size import measure_batch
from tta_server.scoring.cluster.options import read_cluster
from tta_server.scoring.failures import read_limit
from tta_server.scoring.formats import Format, check_fits, choose_format, choose_masks
from tta_server.scoring.inputs import Inputs, open_inputs
from tta_server.scoring.manifest import digest_inputs, fingerprint
from tta_server.scoring.output import OutputFolder, ShardEntry
from tta_server.scoring.processes import Setup
from tta_server.scoring.remote import RemotePlan
from tta_server.scoring.run import Run, Task
from tta_server.scoring.scorer import open_plan, read_scoring_options
from tta_server.scoring.shards import Shards
from tta_server.serving.plan import Options, Plan


@dataclass(frozen=True, slots=True)
class What:
    """Which images go through which model, a name or a folder, and where to."""

    source: str
    column: str | None
    model: str
    output: OutputFolder
    format: Format


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
    processes: ProcessesOption = None,
    max_failures: MaxFailuresOption = None,
    metrics_port: MetricsPortOption = None,
    metrics_host: MetricsHostOption = "127.0.0.1",
    max_bytes: MaxBytesOption = None,
    max_pixels: MaxPixelsOption = None,
    plan_only: PlanOption = False,
    verify_only: VerifyOption = False,
    ray: RayOption = None,
    ray_actors: RayActorsOption = None,
    ray_gpus: RayGpusOption = None,
    **server: Any,
) -> None:
    """Score many images here, on a Ray cluster or with a running server, each exactly once; failures are rows too.

    A run that was stopped goes on with the same command; its results are the same to the byte, with --url within 1e-6.

    Example: tta-server score photos --model clothing --out scores
    """
    cluster = read_cluster(ray, ray_actors, ray_gpus)
    if verify_only:
        _verify(OutputFolder(to))
        return
    what = What(source, column, model, OutputFolder(to), choose_format(format_name))
    options: dict[str, Any] = {"policy": policy, "max_views": max_views, "merge": merge, "stop": stop, "top_k": top_k}
    options |= {"include": include, "min_views": _min_views(min_views), "masks": masks}
    settings = read_settings(models=models, max_bytes=max_bytes, max_pixels=max_pixels)
    where = read_server(server, threads, models, batch, max_pixels) or model_folder(settings.models, model)
    how = How(where, batch, threads, processes, read_limit(max_failures), endpoint(metrics_host, metrics_port), cluster)
    _start(what, options, settings.limits, how, plan_only)


def _start(what: What, options: dict[str, Any], limits: Limits, how: How, plan_only: bool) -> None:
    given = options["masks"]
    options |= {"masks": choose_masks(what.format, given)}
    check_options(how)
    inputs = _listed(what)
    if how.cluster and isinstance(how.where, Path) and not plan_only:
        shards = Shards(inputs, limits, what.output, what.format)
        score_on_ray(how.cluster, how.where, shards, read_scoring_options(options), how, given)
        return
    with _opened(how.where, what.model, options) as plan:
        task = Task(plan, inputs, limits, what.output, what.format)
        check_fits(what.format, task.schema, given)
        if plan_only:
            _forecast(task, how)
        else:
            _score(task, how, read_scoring_options(options))


def _listed(what: What) -> Inputs:
    with loading(f"listing {what.source} ..."):
        inputs = open_inputs(what.source, what.column)
        what.format.check_ids(inputs.ids)
    for each in inputs.notes:
        warn(each)
    return inputs


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
        found = forecast(task, _batch(task, how), choose_workers(task, how, len(task.inputs)))
    out.print(found)


def _score(task: Task, how: How, options: Options) -> None:
    with task.output.locked():
        with loading("measuring ..."):
            batch = _batch(task, how)
            made_of = _made_of(task, how, batch)
            task.output.begin({"inputs": digest_inputs(task.inputs.marks()), **made_of})
        left = len(task.inputs) - sum(entry.images for entry in task.output.entries().values())
        with ready(choose_workers(task, how, left), _setup(task, how, options, batch), made_of) as running:

            def make(done: Mapping[int, ShardEntry], progress: ScoreProgress) -> Run:
                return Run(task, batch, running, done, progress.add)

            run_to_end(make, task.shards, how, task.schema)


def _setup(task: Task, how: How, options: Options, batch: int) -> Setup | None:
    """Of processes; None with a server."""
    if isinstance(how.where, Path):
        return Setup(how.where, options, task.limits, task.format.name, batch)
    return None


def _made_of(task: Task, how: How, batch: int) -> Mapping[str, Any]:
    if isinstance(task.plan, RemotePlan):
        return task.plan.fingerprint(task.format.name, task.limits)
    assert isinstance(how.where, Path)
    return fingerprint(task.plan, how.where, batch, task.format.name, task.limits)


def _batch(task: Task, how: How) -> int:
    """The given size, that of the run that is resumed, or the one measured; requests have one image each."""
    if isinstance(task.plan, RemotePlan):
        return 1
    return how.batch or batch_before(task.output) or measure_batch(task.plan)


def _min_views(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


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
