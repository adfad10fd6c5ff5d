"""`tta-server score --ray`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tta_server.cli.console import loading, note, warn
from tta_server.cli.score_progress import ScoreProgress
from tta_server.cli.score_run import How, batch_before, run_to_end
from tta_server.repository.backend_config import BackendConfig
from tta_server.repository.described import read_folder_config
from tta_server.scoring.cluster.actors import Actors
from tta_server.scoring.cluster.options import Cluster, PoolSize, Share
from tta_server.scoring.cluster.run import ClusterRun
from tta_server.scoring.cluster.session import connected
from tta_server.scoring.cluster.worker import Setup, ShardResult, pack_folder
from tta_server.scoring.formats import check_fits
from tta_server.scoring.manifest import digest_inputs
from tta_server.scoring.output import ShardEntry
from tta_server.scoring.shards import Shards
from tta_server.serving.plan import Options


def score_on_ray(cluster: Cluster, folder: Path, shards: Shards, options: Options, how: How, masks: str | None) -> None:
    """`masks` is the option as given.

    Raises ConfigError, BackendFailed, InvalidInput, and typer.Exit for another exit status than 0.
    """
    with shards.output.locked(), connected(cluster.address) as ray:
        resources = ray.cluster_resources()
        share = _share(cluster, folder, how.threads, resources)
        batch = how.batch or batch_before(shards.output)
        name, form = folder.absolute().name, shards.format.name
        setup = Setup(name, options, shards.limits, form, share.cpus, batch, shards.size)
        actors = Actors(ray, setup, pack_folder(folder), share, note)
        with loading(f"loading {folder.name} on the cluster ..."):
            first, opened = actors.first()
        check_fits(shards.format, opened.schema, masks)
        for sentence in opened.warnings:
            warn(sentence)
        shards.output.begin({"inputs": digest_inputs(shards.inputs.marks()), **opened.fingerprint})
        size = cluster.size or PoolSize(1, max(1, share.fits(resources)))

        def make(done: Mapping[int, ShardEntry], progress: ScoreProgress) -> ClusterRun:
            def report(result: ShardResult) -> None:
                counts = result.shard.counts
                progress.add_images(counts["images"], counts["views"], counts["failed"], result.failures)

            return ClusterRun(shards, actors, first, size, done, report)

        run_to_end(make, shards, how, opened.schema)


def _share(cluster: Cluster, folder: Path, threads: int | None, resources: Mapping[str, Any]) -> Share:
    """A CPU for an actor; with a GPU, those that the cluster has for each of its GPUs."""
    gpus = cluster.gpus
    if gpus is None:
        backend = read_folder_config(folder).backend
        gpus = 1 if isinstance(backend, BackendConfig) and backend.device.startswith("cuda") else 0
    of_gpu = int(resources.get("CPU", 0) / resources["GPU"] * gpus) if gpus and resources.get("GPU") else 1
    return Share(threads or max(1, of_gpu), gpus)
