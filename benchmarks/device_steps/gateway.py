"""The server over HTTP with the large net: a closed loop, and requests at 1, 2 and 4 times its rate.

Also how many requests of one view of a net that takes no time the process answers. Clients have the last two cores to
themselves where there are at least four.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.device_steps import bare
from benchmarks.device_steps.clients import Clients, Target, clients, figures
from benchmarks.device_steps.product import photos, with_backend
from benchmarks.device_steps.report import Report
from benchmarks.device_steps.setting import VIEWS, Setting, client_cores, server_cores
from benchmarks.device_steps.timing import median_ms
from benchmarks.server import MODELS, Endpoints, served
from loadtest.cases import Case
from loadtest.report import Row

BUDGET_MS, LONG_MS = 50.0, 10_000.0
LOADS = (1.0, 2.0, 4.0)
LOAD_S, CLOSED_S = 5.0, 4.0
SHARE, IN_TIME, GOODPUT, MOST_VIEWS = 0.85, 0.995, 0.9, 4.0
"""Targets: closed loop over what bounds it; answers in time; goodput at 2x over offered; K where some are refused."""
REFUSING = 0.01


def run(setting: Setting, report: Report) -> None:
    net = setting.nets[0]
    rows = setting.rungs[-1]
    model = rows / median_ms(bare.fastest(setting, net, [rows])[rows], limit_s=setting.seconds(1.0)) * 1e3
    case = Case(net, tuple(photos(setting)), BUDGET_MS, VIEWS)
    with serving(setting, _folder(setting, net), report) as endpoints, clients() as them:
        process = _process_rate(setting, them, endpoints, report)
        closed = _closed_rate(setting, them, endpoints, case)
        bound = min(model, process * VIEWS)
        report.say(what="closed loop", net=net, views=VIEWS, answers_per_s=round(closed, 1),
                   client_cores=client_cores(), model_views_per_s=round(model),
                   process_requests_per_s=round(process))  # fmt: skip
        share = closed * VIEWS / bound
        report.check(13, f"{net}: views/s over those of the model or the process", share, (">=", SHARE))
        found = [_offer(setting, them, endpoints, report, case, (closed, load)) for load in LOADS]
    _check_loads(report, net, found)
    doubled = found[LOADS.index(2.0)]
    saved = {"goodput_per_s": doubled["goodput_per_s"], "closed_per_s": closed}
    goodput_file(setting).write_text(json.dumps(saved))
    setting.done("gateway").touch()


def goodput_file(setting: Setting) -> Path:
    """Where the goodput at twice the closed loop's rate is kept, for comparison with peers."""
    return setting.scratch / "gateway.json"


def _folder(setting: Setting, net: str) -> Path:
    """Of the large net, and of the bundled net of 32x32 pixels on the same device."""
    folder = setting.scratch / "served"
    shutil.rmtree(folder, ignore_errors=True)
    with_backend(setting.folder("onnxruntime", net), folder / net, setting.backend())
    with_backend(MODELS / "cifar10", folder / "cifar10", setting.backend())
    return folder


@contextmanager
def serving(setting: Setting, folder: Path, report: Report) -> Iterator[Endpoints]:
    """The server on its cores."""
    start = time.perf_counter()
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, server_cores())
    with served("--models", str(folder), env={"PYTHONPATH": os.environ["PYTHONPATH"]}) as endpoints:
        os.sched_setaffinity(0, cores)
        report.say(what="start to ready", seconds=round(time.perf_counter() - start, 2))
        yield endpoints


def connections(setting: Setting) -> int:
    """Enough to fill two of the largest batches of a device."""
    return 2 * setting.rungs[-1] // VIEWS * 4 if setting.is_cuda else 8


def _process_rate(setting: Setting, them: Clients, endpoints: Endpoints, report: Report) -> float:
    """Requests of one view a second, of a net whose own time does not count."""
    case = Case("cifar10", (MODELS / "cifar10" / "sample.png",), LONG_MS, 1)
    target = Target(endpoints.http, case, case.requests("fixed"))
    found = them.closed(target, setting.seconds(3.0), connections(setting))
    report.check(15, "cifar10, K = 1: requests/s in a closed loop", found, None)
    return found


def _closed_rate(setting: Setting, them: Clients, endpoints: Endpoints, case: Case) -> float:
    """Answers a second with all views."""
    target = Target(endpoints.http, case, case.requests("fixed", LONG_MS))
    return them.closed(target, setting.seconds(CLOSED_S), connections(setting))


def _offer(
    setting: Setting, them: Clients, endpoints: Endpoints, report: Report, case: Case, offered: tuple[float, float]
) -> Row:
    """`offered`: the closed loop's rate, and its multiple."""
    target = Target(endpoints.http, case, case.requests("adaptive"))
    found = them.offered(target, *offered, setting.seconds(LOAD_S))
    report.say(what="open loop", net=case.model, load=offered[1], budget_ms=case.budget_ms, **figures(found))
    return found


def _check_loads(report: Report, net: str, found: Sequence[Row]) -> None:
    """A load at which nothing was admitted has no answers in time."""
    in_time = min(float(row["slo"]) if row["admitted"] else 0.0 for row in found)
    report.check(13, f"{net}: answers in time, of admitted requests, at any load", in_time, (">=", IN_TIME))
    refusing = [float(row["mean_views"]) for row in found if _refuses(row)]
    report.check(13, f"{net}: mean K where over 1 % are refused", max(refusing, default=0.0), ("<=", MOST_VIEWS))
    doubled = float(found[LOADS.index(2.0)]["goodput_share"])
    report.check(13, f"{net}: goodput over offered at 2x", doubled, (">=", GOODPUT))


def _refuses(row: Row) -> bool:
    """Whether it refused over REFUSING, and answered others."""
    return float(row["refused_share"]) > REFUSING and float(row["answered"]) > 0
