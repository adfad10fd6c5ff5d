"""Whether batches of changing sizes cost more than each size repeated."""

import statistics
from collections.abc import Callable, Mapping
from functools import partial

from benchmarks.device_steps import bare
from benchmarks.device_steps.product import Batches, backends, photos
from benchmarks.device_steps.report import Report
from benchmarks.device_steps.setting import Setting
from benchmarks.device_steps.timing import median_ms, milliseconds, rounded

MOST = 1.1


def run(setting: Setting, report: Report) -> None:
    names = backends(setting, report)
    for net in setting.nets:
        report.attempt(f"{net} alone", partial(_alone, setting, report, net))
        for name in names:
            report.attempt(f"{net}, {name}", partial(_served, setting, report, net, name))


def ratio(
    actions: Mapping[int, Callable[[], object]], seconds: float, cycles: int = 5
) -> tuple[float, dict[int, float]]:
    """A cycle over all sizes, over the sum of each repeated; and the latter in ms. One cycle may take many seconds."""
    alone = {rows: median_ms(action, limit_s=seconds) for rows, action in actions.items()}

    def cycle() -> None:
        for action in actions.values():
            action()

    found = statistics.median(milliseconds(cycle) for _ in range(cycles))
    return found / sum(alone.values()), alone


def _alone(setting: Setting, report: Report, net: str) -> None:
    """One session for all sizes: without graphs, and with a graph for each size."""
    for graphs in (False, True) if setting.is_cuda else (False,):
        precision = setting.file_precision
        made = bare.session(setting, net, precision, graphs)
        largest_first = setting.rungs[::-1]  # see Rungs: graphs made in ascending order read freed memory
        actions = {rows: bare.bound(setting, made, rows, precision, graphs) for rows in largest_first}
        found, alone = ratio(actions, setting.seconds(0.2), cycles=5 if graphs or not setting.is_cuda else 1)
        report.say(net=net, what="one session", graphs=graphs, cycle_over_sum=round(found, 3), ms=rounded(alone))


def _served(setting: Setting, report: Report, net: str, name: str) -> None:
    batches = Batches(setting.folder(name, net), photos(setting), setting.rungs[-1])
    found, alone = ratio({rows: batches.batch(rows) for rows in setting.rungs}, setting.seconds(0.3))
    report.say(net=net, what="batches of the server", backend=name, ms=rounded(alone))
    report.check(10, f"{net}, {name}: a cycle over all sizes over each repeated", found, ("<=", MOST))
    batches.close()
