"""How the server scales on the cores: views a second over a loop that only runs the model, by the number of slots."""

import os
from functools import partial
from pathlib import Path

from benchmarks.device_steps.report import Report
from benchmarks.device_steps.setting import VIEWS, Setting, client_cores, server_cores
from benchmarks.gateway import Bare, Case, cases, load
from benchmarks.server import DATA, MODELS, served

SLOTS = (2, 4, 8, 14)
NETS = ("clothing", "nuclei")
QUERY = f"stop=all&min_views=all&max_views={VIEWS}&budget_ms=10000"
SECONDS, WARM_S = 2.5, 0.5


def run(setting: Setting, report: Report) -> None:
    models = [case for case in cases(DATA) if case.model in NETS[: 1 if setting.tiny else None]]
    every, whole = os.sched_getaffinity(0), sorted(server_cores())
    for slots in SLOTS:
        if slots > len(whole):
            report.skip(f"{slots} slots", f"the server has {len(whole)} cores here")
            continue
        report.attempt(f"{slots} slots", partial(_slots, setting, report, models, set(whole[:slots])))
        os.sched_setaffinity(0, every)


def _slots(setting: Setting, report: Report, models: list[Case], cores: set[int]) -> None:
    """The bare loop and the server on the same cores; clients on theirs."""
    seconds = setting.seconds(SECONDS)
    os.sched_setaffinity(0, cores)
    bare = {case.model: Bare(MODELS, case).views_per_second(seconds) for case in models}
    with served("--models", str(_only(setting, models)), "--slots", str(len(cores)),
                env={"PYTHONPATH": os.environ["PYTHONPATH"]}) as endpoints:  # fmt: skip
        os.sched_setaffinity(0, client_cores() or cores)
        for case in models:
            port, connections = endpoints.http[1], 2 * len(cores)
            load(port, case, QUERY, VIEWS, connections, WARM_S)
            found = load(port, case, QUERY, VIEWS, connections, seconds)
            served_per_s = float(str(found["views"])) / float(str(found["seconds"]))
            ratio = round(served_per_s / bare[case.model], 3)
            report.say(model=case.model, slots=len(cores), bare_views_per_s=round(bare[case.model], 1),
                       served_views_per_s=round(served_per_s, 1), ratio=ratio)  # fmt: skip


def _only(setting: Setting, models: list[Case]) -> Path:
    """A folder of these models alone, which starts sooner."""
    folder = setting.scratch / "scaling"
    folder.mkdir(exist_ok=True)
    for case in models:
        if not (folder / case.model).exists():
            (folder / case.model).symlink_to(MODELS / case.model)
    return folder
