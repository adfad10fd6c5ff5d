"""What a device does: the steps of `benchmarks/device_steps`, each in a process of its own with a time limit.

Prints a line of JSON for each figure, at once; a step that fails or is stopped does not end the run. At the end a
summary of the checks with figures and targets. Exits with 1 if a step failed or a target that is held was missed: on
the CPU, and with --tiny, only targets of equal answers are held. A whole run on a GPU also fails where a check that
has a target was not measured.

    python benchmarks/devices.py --device cuda [--out FILE]
    python benchmarks/devices.py --device cpu --tiny [--only nets,rungs]
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.device_steps import CHECKS, STEPS
from benchmarks.device_steps.card import card
from benchmarks.device_steps.setting import Setting
from benchmarks.server import ROOT

TOTAL_S = 480.0
RECORDED = 15
"""A check without a target."""
Line = dict[str, Any]


class Run:
    """Starts steps one after the other; `lines` are all that they printed."""

    def __init__(self, setting: Setting, out: Path | None, name: str) -> None:
        self.lines: list[Line] = []
        self.failed: list[str] = []
        self._setting, self._out, self._card = setting, out, name

    def step(self, name: str, limit_s: float) -> None:
        """Run a step for at most `limit_s`; then it and all that it started are killed."""
        start, stopped = time.perf_counter(), threading.Event()
        process = self._start(name)

        def stop() -> None:
            stopped.set()
            _kill(process)

        timer = threading.Timer(limit_s, stop)
        timer.start()
        assert process.stdout is not None
        try:
            for text in process.stdout:
                self._take(text)
            code = process.wait()
        finally:
            timer.cancel()
            _kill(process)
        if code or stopped.is_set():
            self.failed.append(name)
        error = {"error": f"stopped after {limit_s:.0f} s"} if stopped.is_set() else {}
        self.say(step=name, ended=code, seconds=round(time.perf_counter() - start, 1), **error)

    def say(self, **line: Any) -> None:
        self._keep({"step": "", "card": self._card} | line)

    def _start(self, name: str) -> "subprocess.Popen[str]":
        setting = self._setting
        command = [sys.executable, "-m", "benchmarks.device_steps", name, "--device", setting.device]
        command += ["--scratch", str(setting.scratch), *(["--tiny"] if setting.tiny else [])]
        return subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def _take(self, text: str) -> None:
        """A line of JSON; what a library prints goes to stderr."""
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if isinstance(line, dict):
            self._keep(line)
        else:
            sys.stderr.write(text)

    def _keep(self, line: Line) -> None:
        self.lines.append(line)
        text = json.dumps(line) + "\n"
        sys.stdout.write(text)
        sys.stdout.flush()
        if self._out is not None:
            with self._out.open("a") as file:
                file.write(text)


def _kill(process: "subprocess.Popen[str]") -> None:
    """Kill a step's session: the step, and servers that it may have left."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def environment() -> dict[str, str]:
    """With this checkout before what PYTHONPATH has already."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path}


def summary(lines: Iterable[Line], failed: Sequence[str], whole: bool) -> Line:
    """The checks with figures and targets. `whole`: a check that was not measured counts as failed."""
    found = [line for line in lines if "check" in line]
    figures = [{key: line[key] for key in ("check", "figure", "value", "target", "met", "held")} for line in found]
    unmeasured = [number for number in CHECKS if number not in {line["check"] for line in found}]
    missed = [line for line in found if line["held"] and not line["met"]]
    unheld = [number for number in unmeasured if number != RECORDED] if whole else []
    return {
        "checks": sorted(figures, key=lambda line: int(line["check"])),
        "unmeasured": unmeasured,
        "failed_steps": list(failed),
        "ok": not (missed or failed or unheld),
    }


def show(found: Line, write: Callable[[str], object]) -> None:
    """The summary as text."""
    for line in found["checks"]:
        held = "" if line["held"] or line["target"] is None else ", not held here"
        word = "recorded" if line["target"] is None else "met" if line["met"] else "MISSED"
        target = f" (target {line['target']})" if line["target"] else ""
        write(f"check {line['check']:>2}: {line['figure']}: {line['value']}{target}: {word}{held}\n")
    for number in found["unmeasured"]:
        write(f"check {number:>2}: {CHECKS[number]}: not measured\n")
    if found["failed_steps"]:
        write(f"failed steps: {', '.join(found['failed_steps'])}\n")


def with_needs(names: Sequence[str], done: Callable[[str], bool]) -> list[str]:
    """These steps and those whose files they need, in the order of STEPS; `done`: whether files are there already."""
    wanted = set(names) | {need for name in names for need in STEPS[name].needs if not done(need)}
    return [name for name in STEPS if name in wanted]


def run_steps(run: Run, names: Iterable[str], limit_s: float | None, total_s: float) -> None:
    end = time.perf_counter() + total_s
    for name in names:
        left = end - time.perf_counter()
        if left < 1:
            run.failed.append(name)
            run.say(step=name, error=f"not started: the {total_s:.0f} s of the whole run are over")
            continue
        run.step(name, min(limit_s or STEPS[name].limit_s, left))


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in STEPS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: no such step; there are {', '.join(STEPS)}")
    return names


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", choices=["cpu", "cuda"], required=True)
    made.add_argument("--tiny", action="store_true", help="small nets and short runs: a rehearsal")
    made.add_argument("--only", type=_names, default=list(STEPS), metavar="STEP,STEP", help=", ".join(STEPS))
    made.add_argument("--out", type=Path, help="file that the lines are added to")
    made.add_argument("--limit", type=float, help="seconds that each step may take, instead of its own limit")
    made.add_argument("--total", type=float, default=TOTAL_S, help=f"seconds of the whole run ({TOTAL_S:.0f})")
    made.add_argument("--scratch", type=Path, help="folder that keeps the exported nets for the next run")
    return made


def main() -> int:
    args = parser().parse_args()
    name = card(args.device)
    with tempfile.TemporaryDirectory(prefix="devices-") as made:
        setting = Setting(args.device, args.tiny, (args.scratch or Path(made)).resolve())
        run = Run(setting, args.out, name)
        names = with_needs(args.only, lambda need: setting.done(need).exists())
        run_steps(run, names, args.limit, args.total)
    found = summary(run.lines, run.failed, setting.is_held and args.only == list(STEPS))
    run.say(step="summary", **found)
    show(found, sys.stderr.write)
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
