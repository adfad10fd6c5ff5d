"""`tta-server score`: scores many images into a folder, each exactly once."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
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
from tta_server.cli.score_options import (
    BatchOption,
    ColumnOption,
    FormatOption,
    InputArgument,
    MaxFailuresOption,
    MinViewsOption,
    OutOption,
    PlanOption,
    RayActorsOption,
    RayGpusOption,
    RayOption,
    ThreadsOption,
    TopKOption,
    VerifyOption,
)
from tta_server.cli.score_progress import ScoreProgress, forecast
from tta_server.cli.score_ray import score_on_ray
from tta_server.cli.score_run import How, batch_before, run_to_end
from tta_server.cli.sources import read_settings
from tta_server.errors import ConfigError
from tta_server.repository.described import is_described
from tta_server.scoring.batch_size import measure_batch
from tta_server.scoring.cluster.options import read_cluster
from tta_server.scoring.failures import read_limit
from tta_server.scoring.formats import choose_format
from tta_server.scoring.inputs import Inputs, open_inputs
from tta_server.scoring.manifest import digest_inputs, fingerprint
from tta_server.scoring.output import OutputFolder, ShardEntry
from tta_server.scoring.run import Run, Task
from tta_server.scoring.scorer import open_plan, read_scoring_options
from tta_server.scoring.shards import Shards
from tta_server.serving.cores import available_cores
from tta_server.serving.plan import Plan


def score(
    source: InputArgument,
    model: ModelOption,
    to: OutOption,
    models: ModelsOption = None,
    column: ColumnOption = None,
    format_name: FormatOption = None,
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
    max_bytes: MaxBytesOption = None,
    max_pixels: MaxPixelsOption = None,
    plan_only: PlanOption = False,
    verify_only: VerifyOption = False,
    ray: RayOption = None,
    ray_actors: RayActorsOption = None,
    ray_gpus: RayGpusOption = None,
) -> None:
    """Score many images on this machine, or on a Ray cluster, each exactly once; images that fail are rows too.

    A run that was stopped goes on with the same command, and its results are the same to the byte.
    Example: tta-server score photos --model clothing --out scores
    """
    cluster = read_cluster(ray, ray_actors, ray_gpus)
    if verify_only:
        _verify(OutputFolder(to))
        return
    options: dict[str, Any] = {"policy": policy, "max_views": max_views, "merge": merge, "stop": stop}
    options |= {"top_k": top_k, "include": include, "min_views": _min_views(min_views)}
    settings = read_settings(models=models, max_bytes=max_bytes, max_pixels=max_pixels)
    shards = Shards(_listed(source, column), settings.limits, OutputFolder(to), choose_format(format_name))
    folder, how = _folder(settings.models, model), How(batch, threads, read_limit(max_failures), cluster)
    _forecast(shards, folder, options, how) if plan_only else _score(shards, folder, options, how)


def _folder(models: Path, model: str) -> Path:
    return Path(model) if is_described(Path(model)) else model_folder(models, model)


def _listed(source: str, column: str | None) -> Inputs:
    with loading(f"listing {source} ..."):
        inputs = open_inputs(source, column)
    for each in inputs.notes:
        warn(each)
    return inputs


@contextmanager
def _loaded(folder: Path, options: dict[str, Any]) -> Iterator[Plan]:
    with loading(f"loading {folder.name} ..."):
        plan = open_plan(folder, read_scoring_options(options))
    for finding in plan.model.observed.warnings:
        warn(finding.sentence)
    with closing(plan.model.backend):
        yield plan


def _forecast(shards: Shards, folder: Path, options: dict[str, Any], how: How) -> None:
    with _loaded(folder, options) as plan, loading("scoring a few images ..."):
        found = forecast(_task(plan, shards), how.batch or measure_batch(plan), how.threads or available_cores())
    out.print(found)


def _score(shards: Shards, folder: Path, options: dict[str, Any], how: How) -> None:
    if how.cluster:
        score_on_ray(how.cluster, shards, folder, read_scoring_options(options), how)
        return
    with _loaded(folder, options) as plan, shards.output.locked():
        with loading("measuring ..."):
            batch = how.batch or batch_before(shards.output) or measure_batch(plan)
            made_of = fingerprint(plan, folder, batch, shards.format.name, shards.limits)
            shards.output.begin({"inputs": digest_inputs(shards.inputs.marks()), **made_of})

        def make(done: Mapping[int, ShardEntry], progress: ScoreProgress) -> Run:
            return Run(_task(plan, shards), batch, how.threads or available_cores(), done, progress.add)

        run_to_end(make, shards.output, shards.images, how.limit)


def _task(plan: Plan, shards: Shards) -> Task:
    return Task(plan, shards.inputs, shards.limits, shards.output, shards.format)


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
    out.print(f"{len(entries)} shards are as written: {scored} of {images} images")
