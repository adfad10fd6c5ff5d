"""Runs one step: python -m benchmarks.device_steps STEP --device cpu|cuda --scratch DIR [--tiny]."""

import argparse
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.device_steps import STEPS
from benchmarks.device_steps.card import card
from benchmarks.device_steps.report import Report
from benchmarks.device_steps.setting import Setting


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=list(STEPS))
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    setting = Setting(args.device, args.tiny, args.scratch)
    report = Report(args.step, card(args.device), setting.is_held)
    module = import_module(f"benchmarks.device_steps.{args.step}")
    report.attempt(args.step, lambda: module.run(setting, report))
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
