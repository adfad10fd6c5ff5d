"""Loads and measures a model while others are served."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from tta_server.repository.model import Model
from tta_server.scheduling.costs import CostModel
from tta_server.scheduling.devices.ladder import LADDER
from tta_server.serving.folders import ModelFolders
from tta_server.serving.niceness import PREPARATION_NICENESS, lower_priority
from tta_server.serving.pools import Pools, ServingPool
from tta_server.serving.warmup import warm_up_beside_requests


def prepare(folders: ModelFolders, name: str, pools: Pools) -> Future[tuple[Model, CostModel]]:
    """Load a model and measure its costs, on a thread of low priority; return when that is done or has failed."""
    with ThreadPoolExecutor(1, "preparation", lower_priority, (PREPARATION_NICENESS,)) as thread:
        return thread.submit(_prepare, folders, name, pools)


def _prepare(folders: ModelFolders, name: str, pools: Pools) -> tuple[Model, CostModel]:
    model, costs = folders.load(name), CostModel()
    try:
        warm_up_beside_requests(model, costs, batch_ladder(model, pools.of(model)))
    except BaseException:
        model.retire()
        raise
    return model, costs


def batch_ladder(model: Model, pool: ServingPool) -> Sequence[int]:
    """The batch sizes to measure one after the other; empty without workers, where slots run few views at a time."""
    return (model.backend.ladder or LADDER) if pool.size.workers else ()
