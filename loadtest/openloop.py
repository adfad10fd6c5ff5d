"""An open-loop load test: requests arrive at stated rates, whether or not earlier ones are answered.

Arrivals are random (Poisson), and every latency counts from the time at which the request was due, so that a server
that stalls is charged for all requests that were due meanwhile. For each load: goodput, SLO attainment, mean K (views
per answer) and refusals, as a table, a CSV and a plot; for comparison the same loads with all K views required
(stop=all&min_views=all). Loads are multiples of the rate of a closed loop of 8 connections with all K views, which is
measured first, in the same run.
"""

import argparse
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import uvloop
from rich.console import Console

from loadtest import plot
from loadtest.burst import Burst, Window, recovery_s, windows, write_windows
from loadtest.cases import BUDGETS_MS, DATA, HERE, IMAGES, MODELS, MODES, Case
from loadtest.generator import closed_loop, open_loop, poisson, real_time_priority
from loadtest.report import COLUMNS, LATE_MS, Outcome, Point, Row, outcome, row, sentence, table, write_csv
from loadtest.server import Started, served
from loadtest.target import Target, add_arguments, target_of

PATIENCE_S = 2.0
"""Beyond the budget, before a request counts as lost."""
PAUSE_S = 0.5
CLOSED_S = 10.0
TABLE_WIDTH = 130
STEP, MOST_STEPS, REFUSING = 1.25, 12, 0.01

EXAMPLES = """
examples:
  python -m loadtest.openloop                                 both models, 30 s a point: about 20 minutes
  python -m loadtest.openloop --only clothing --seconds 3 --loads 0.5,1,2 --no-until-refusals
  python -m loadtest.openloop --only clothing --burst         0.5x, 3x, 0.5x: how soon K recovers
  python -m loadtest.openloop --url http://127.0.0.1:8000     a server that is running already
  python -m loadtest.openloop --url https://tta.example.org --key-file key.txt --cacert ca.pem

It writes openloop.csv (burst.csv) and a PNG for each model into --out. Columns of the CSV:
"""


@dataclass
class Session:
    """One run against one server; each point adds a row to `rows` and rewrites the CSV."""

    target: Target
    options: argparse.Namespace
    csv: Path
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    rows: list[Row] = field(default_factory=list)
    real_time: bool = False

    def closed_per_s(self, case: Case) -> float:
        """Answers per second with all K views, after a short run that warms caches and the server's estimates."""
        target = self.target
        requests = case.requests("fixed", target.max_budget_ms(case.model), target.headers)
        seconds = min(CLOSED_S, self.options.seconds)
        self.console.print(f"{case.model}: closed loop, 8 connections, K = {case.views}, {seconds:g} s ...")
        uvloop.run(closed_loop(target.address, requests, min(1.5, seconds), tls=target.tls))
        shots = uvloop.run(closed_loop(target.address, requests, seconds, tls=target.tls))
        failed = [shot for shot in shots if outcome(shot).status != 200]
        if failed:
            raise SystemExit(f"the closed loop got an error: {failed[0].answer[-300:].decode(errors='replace')}")
        rate = len(shots) / (max(shot.ended for shot in shots) - min(shot.sent for shot in shots))
        self.console.print(f"  1x is {rate:.1f} answers/s")
        return rate

    def measure(self, point: Point, times: Sequence[float]) -> list[Outcome]:
        """Send a request at each of `times` (seconds); returns the outcome of each."""
        self.console.print(f"  {point.mode} {point.load:.3g}x: {point.per_s:.1f}/s for {point.seconds:g} s ...", end="")
        target, patience = self.target, point.case.budget_ms / 1e3 + PATIENCE_S
        requests = point.case.requests(point.mode, headers=target.headers)
        with real_time_priority() as self.real_time:
            shots = uvloop.run(open_loop(target.address, requests, times, patience, target.tls))
        time.sleep(PAUSE_S)
        return [outcome(shot) for shot in shots]

    def report(self, point: Point, outcomes: Sequence[Outcome], recovery: float | str = "") -> Row:
        """Returns the point's row; stores, writes and prints it."""
        found = row(point, outcomes) | {"recovery_s": recovery}
        self.rows.append(found)
        write_csv(self.csv, self.rows)
        self.console.print(f" {sentence(found)}")
        if float(found["send_late_p99_ms"]) > LATE_MS:
            why = "" if self.real_time else "; it needs CAP_SYS_NICE for real-time priority"
            late = f"{found['send_late_p99_ms']:.1f} ms late at p99{why}"
            self.console.print(f"    [yellow]the generator was late: it sent {late}")
        return found


def next_load(listed: Sequence[float], done: Sequence[tuple[float, float]], most_steps: int) -> float | None:
    """The load after those `done` (load, share refused): first those listed, then x1.25 until two in a row refuse."""
    if len(done) < len(listed):
        return listed[len(done)]
    refusing = [share > REFUSING for _, share in done[-2:]]
    if refusing == [True, True] or len(done) >= len(listed) + most_steps:
        return None
    return done[-1][0] * STEP


def sweep(session: Session, case: Case) -> None:
    """Measure one model over all loads and plot it; both modes of a load get the same arrivals."""
    options, done = session.options, list[tuple[float, float]]()
    closed, first = session.closed_per_s(case), len(session.rows)
    steps = MOST_STEPS if options.until_refusals else 0
    while load := next_load(options.loads, done, steps):
        for mode in _modes(options):
            point = Point(case, mode, "sweep", options.slots, closed, load, options.seconds)
            times = poisson(point.per_s, point.seconds, Random(f"{options.seed} {load:g}"))
            found = session.report(point, session.measure(point, times))
            if mode == "adaptive":
                done.append((load, float(found["refused_share"])))
    plot.draw_sweep(session.rows[first:], session.csv.parent / f"openloop-{case.model}.png")


def burst(session: Session, case: Case) -> None:
    """Measure one model before, during and after a burst; write windows of half a second, and plot them."""
    options = session.options
    shape = Burst(options.base, options.burst, options.seconds, options.burst_seconds)
    closed, seen = session.closed_per_s(case), dict[str, list[Window]]()
    for mode in _modes(options):
        times = shape.arrivals(closed, Random(f"{options.seed}"))
        whole = Point(case, mode, "burst", options.slots, closed, shape.load, shape.seconds * 2 + shape.burst_seconds)
        seen[mode] = _report_phases(session, shape, whole, session.measure(whole, times), times)
    write_windows(session.csv.parent / f"burst-{case.model}.csv", seen)
    plot.draw_burst(seen, whole.settings(), shape.burst_seconds, session.csv.parent / f"burst-{case.model}.png")


def _report_phases(
    session: Session, shape: Burst, whole: Point, outcomes: Sequence[Outcome], times: Sequence[float]
) -> list[Window]:
    start = outcomes[0].intended - times[0]
    seen = windows(outcomes, start + shape.seconds + shape.burst_seconds)
    before = math.nan
    for phase, (load, begin, length) in shape.phases().items():
        point = Point(whole.case, whole.mode, phase, whole.slots, whole.closed_per_s, load, length)
        inside = [found for found in outcomes if begin <= found.intended - start < begin + length]
        recovery = recovery_s(seen, before) if phase == "after" else ""
        found = session.report(point, inside, recovery)
        before = float(found["mean_views"]) if phase == "before" else before
    session.console.print(f"  mean K had recovered {recovery:g} s after the burst")
    return seen


def _modes(options: argparse.Namespace) -> list[str]:
    return list(MODES) if options.fixed else ["adaptive"]


def _loads(text: str) -> list[float]:
    try:
        loads = [float(part) for part in text.split(",")]
    except ValueError:
        loads = [0]
    if min(loads) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers over 0, like 0.5,1,2")
    return loads


def parser() -> argparse.ArgumentParser:
    width = max(map(len, COLUMNS))
    columns = "\n".join(f"  {name:{width}} {meaning}" for name, meaning in COLUMNS.items())
    made = argparse.ArgumentParser(
        "python -m loadtest.openloop",
        description=__doc__,
        epilog=EXAMPLES + columns,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    yes_no = argparse.BooleanOptionalAction
    what = made.add_argument_group("requests")
    what.add_argument("--only", choices=list(IMAGES), help="one model instead of both")
    what.add_argument("--budget-ms", type=float, help="the budget; default: clothing 100, nuclei 400")
    what.add_argument("--views", type=int, default=8, metavar="K", help="most views an answer may have (8)")
    what.add_argument("--stop", default="all", help="the query's stop rule, of the adaptive runs (all)")
    what.add_argument("--data", type=Path, default=DATA, help="folder of labelled images; without them: drawn samples")
    load = made.add_argument_group("load")
    load.add_argument("--seconds", type=float, default=30, help="of arrivals a point (30)")
    load.add_argument("--loads", type=_loads, default="0.5,1,1.5,2,3,4", help="of the closed loop (0.5,1,1.5,2,3,4)")
    load.add_argument("--until-refusals", action=yes_no, default=True,
                      help="after these continue, x1.25 each, until two loads in a row refuse over 1 %%")  # fmt: skip
    load.add_argument("--fixed", action=yes_no, default=True, help="also run each load with all K views required")
    load.add_argument("--seed", type=int, default=0, help="of the arrival times (0)")
    load.add_argument("--burst", type=float, nargs="?", const=3.0, metavar="LOAD",
                      help="instead of a sweep: base load, a burst of this load (3), base load again")  # fmt: skip
    load.add_argument("--base", type=float, default=0.5, metavar="LOAD", help="load before and after a burst (0.5)")
    load.add_argument("--burst-seconds", type=float, default=5, help="length of a burst (5)")
    server = made.add_argument_group("server")
    add_arguments(server)
    server.add_argument("--models", type=Path, default=MODELS, help="folder of models for the server that is started")
    server.add_argument("--slots", type=int, help="its slots; default: one for each core")
    made.add_argument("--out", type=Path, default=HERE / "results", help="folder for CSV and plots (loadtest/results)")
    return made


def main() -> None:
    options = parser().parse_args()
    plot.check()
    picked = [name for name in IMAGES if options.only in (None, name)]
    cases = [_case(name, options) for name in picked]
    kind, run = ("burst", burst) if options.burst else ("openloop", sweep)
    with nullcontext(Started(options.url, "")) if options.url else served(options.models, options.slots) as started:
        session = Session(target_of(options, started.url), options, options.out / f"{kind}.csv")
        try:
            for case in cases:
                run(session, case)
        except KeyboardInterrupt:
            session.console.print("\ninterrupted; the results so far:")
    _show(session)


def _show(session: Session) -> None:
    out = Console()
    if not out.is_terminal:
        out.width = max(out.width, TABLE_WIDTH)
    for model in dict.fromkeys(found["model"] for found in session.rows):
        out.print(table([found for found in session.rows if found["model"] == model]))
    if session.rows:
        out.print(f"{session.csv} has more; plots are beside it", highlight=False, soft_wrap=True)


def _case(model: str, options: argparse.Namespace) -> Case:
    images = tuple(IMAGES[model](options.data, options.models))
    budget = BUDGETS_MS[model] if options.budget_ms is None else options.budget_ms
    return Case(model, images, budget, options.views, options.stop)


if __name__ == "__main__":
    main()
