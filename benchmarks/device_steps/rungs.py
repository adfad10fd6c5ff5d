"""What a batch costs by its size: of the server's backends, and of the model alone; start time and memory."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from benchmarks.device_steps import bare
from benchmarks.device_steps.card import used_mb
from benchmarks.device_steps.product import Batches, backends, photos
from benchmarks.device_steps.report import Report
from benchmarks.device_steps.setting import Setting
from benchmarks.device_steps.timing import median_ms, milliseconds, rounded


def run(setting: Setting, report: Report) -> None:
    names = backends(setting, report)
    for net in setting.nets:
        report.attempt(f"{net} alone", partial(_alone, setting, report, net))
        for name in names:
            report.attempt(f"{net}, {name}", partial(_served, setting, report, net, name))


def measure(actions: Mapping[int, Callable[[], object]], seconds: float) -> dict[str, Any]:
    """First run and median of each size in ms, the largest first, and the most views a second."""
    first, usual = dict[int, float](), dict[int, float]()
    for rows in sorted(actions, reverse=True):
        first[rows] = milliseconds(actions[rows])
        usual[rows] = median_ms(actions[rows], limit_s=seconds)
    views = max(rows / ms * 1e3 for rows, ms in usual.items())
    return {"first_ms": rounded(first), "ms": rounded(usual), "views_per_s": round(views)}


def _alone(setting: Setting, report: Report, net: str) -> None:
    """Tensors stay on the device; on a GPU with and without graphs, and in float32."""
    nodes = _session(setting, report, net, "fp32", False)
    if setting.is_cuda:
        _session(setting, report, net, "fp16", True)
        nodes = _session(setting, report, net, "fp16", False)
    report.say(net=net, what="nodes by provider", nodes=nodes)
    if setting.is_cuda and nodes:
        elsewhere = sum(count for provider, count in nodes.items() if provider != bare.CUDA)
        report.check(9, f"{net}: nodes that do not run on the GPU", elsewhere, ("<=", 0), always=True)


def _session(setting: Setting, report: Report, net: str, precision: str, graphs: bool) -> Mapping[str, int]:
    """Report what one session does; returns its nodes by provider."""
    before, start = used_mb(setting.device), time.perf_counter()
    made = bare.session(setting, net, precision, graphs)
    actions = {rows: bare.bound(setting, made, rows, precision, graphs) for rows in setting.rungs}
    start_s = time.perf_counter() - start
    figures = measure(actions, setting.seconds(0.2))
    report.say(net=net, what="model alone", precision=precision, graphs=graphs, start_s=round(start_s, 2),
               memory_mb=round(used_mb(setting.device) - before), **figures)  # fmt: skip
    return bare.nodes_by_provider(made)


def _served(setting: Setting, report: Report, net: str, name: str) -> None:
    """The server's own batches: views made, model run, results summed."""
    before, start = used_mb(setting.device), time.perf_counter()
    batches = Batches(setting.folder(name, net), photos(setting), setting.rungs[-1])
    start_s = time.perf_counter() - start
    figures = measure({rows: batches.batch(rows) for rows in setting.rungs}, setting.seconds(0.3))
    backend = batches.model.backend
    report.say(net=net, what="batches of the server", backend=name, precision=setting.precision,
               runs_on=getattr(backend, "where", "") or backend.device, ladder=list(backend.ladder),
               start_s=round(start_s, 2), memory_mb=round(used_mb(setting.device) - before), **figures)  # fmt: skip
    batches.close()
