"""Whether memory grows: batches of random sizes on two models, on one thread, then each on a new thread."""

import random
import threading
import time
from collections.abc import Callable
from functools import partial

from benchmarks.device_steps.card import used_mb
from benchmarks.device_steps.product import Batches, backends, photos
from benchmarks.device_steps.report import Report
from benchmarks.device_steps.setting import Setting

BATCHES, TINY_BATCHES, ON_NEW_THREADS = 5_000, 200, 60
MARKS = 5
MOST = 0.01
"""Growth as a share of what is used after warm-up."""
LIMIT_S = 22.0


def run(setting: Setting, report: Report) -> None:
    for name in backends(setting, report):
        report.attempt(name, partial(_grow, setting, report, name))


def _grow(setting: Setting, report: Report, name: str) -> None:
    rows = setting.rungs[-1]
    models = [Batches(setting.folder(name, net), photos(setting), rows) for net in setting.nets]
    for model in models:  # each size once, the largest first, as the server's warm-up does
        for size in reversed(setting.rungs):
            model.batch(size)()
    rng = random.Random(0)

    def one() -> None:
        models[rng.randrange(2)].batch(rng.randint(1, rows))()

    before = used_mb(setting.device)
    count, marks = _repeat(one, TINY_BATCHES if setting.tiny else BATCHES, setting)
    growth = max(marks) / before - 1
    report.say(backend=name, batches=count, before_mb=round(before, 1), marks_mb=[round(mark, 1) for mark in marks])
    report.check(12, f"{name}: growth over {count} batches", growth, ("<=", MOST))
    for _ in range(ON_NEW_THREADS // (6 if setting.tiny else 1)):
        thread = threading.Thread(target=one)
        thread.start()
        thread.join()
    after = used_mb(setting.device)
    report.check(12, f"{name}: growth with batches on new threads", after / before - 1, ("<=", MOST))
    for model in models:
        model.close()


def _repeat(action: Callable[[], None], count: int, setting: Setting) -> tuple[int, list[float]]:
    """Runs it so often, or for LIMIT_S; returns how often, and the memory at MARKS times."""
    marks, done, end = list[float](), 0, time.perf_counter() + LIMIT_S
    while done < count and time.perf_counter() < end:
        action()
        done += 1
        if done % (count // MARKS) == 0:
            marks.append(used_mb(setting.device))
    return done, [*marks, used_mb(setting.device)]
