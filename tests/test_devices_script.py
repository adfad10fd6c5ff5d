"""benchmarks/devices.py: steps run on the CPU, lines are JSON, and it exits with 1 where something fails."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SECONDS = 200
devices = importlib.import_module("benchmarks.devices")
steps = importlib.import_module("benchmarks.device_steps")


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "benchmarks/devices.py", *map(str, arguments)]
    env = devices.environment()
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=SECONDS)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def check_line(number: int, met: bool, held: bool) -> dict[str, object]:
    return {"check": number, "figure": "a figure", "value": 1.0, "target": "<= 1", "met": met, "held": held}


MEASURED = [check_line(number, True, True) for number in range(9, 15)]


@pytest.mark.slow
def test_cheap_steps_print_lines_of_json_and_a_summary(tmp_path):
    names = ["nets", "front_and_tail", "rungs", "cycling", "memory"]
    out = tmp_path / "lines.json"

    done = run("--device", "cpu", "--tiny", "--only", ",".join(names), "--out", out)

    assert done.returncode == 0, done.stderr
    found = lines(done.stdout)
    assert out.read_text() == done.stdout
    assert all(line["card"] for line in found)
    assert [line["step"] for line in found if "ended" in line] == names
    assert not [line for line in found if "error" in line]
    summary = found[-1]
    assert (summary["step"], summary["ok"], summary["failed_steps"]) == ("summary", True, [])
    assert {each["check"] for each in summary["checks"]} == {9, 10, 11, 12}
    assert summary["unmeasured"] == [13, 14, 15]
    assert "check  9: tiny-large, onnxruntime, own policy, exact: largest difference of a probability: " in done.stderr


@pytest.mark.slow
def test_a_step_that_takes_too_long_is_stopped_and_the_next_one_runs():
    done = run("--device", "cpu", "--tiny", "--only", "nets,rungs", "--limit", 0.01)

    assert done.returncode == 1
    found = lines(done.stdout)
    assert [line["error"] for line in found if "ended" in line] == ["stopped after 0 s"] * 2
    assert found[-1]["failed_steps"] == ["nets", "rungs"]
    assert not found[-1]["ok"]


@pytest.mark.slow
def test_steps_are_not_started_once_the_time_of_the_run_is_over():
    done = run("--device", "cpu", "--tiny", "--only", "nets", "--total", 0)

    assert done.returncode == 1
    assert [line["error"] for line in lines(done.stdout)[:-1]] == ["not started: the 0 s of the whole run are over"]


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there may be a GPU")
def test_without_a_gpu_one_sentence_says_so():
    done = run("--device", "cuda")

    assert done.returncode == 1
    assert done.stderr == "there is no nvidia-smi, and so no GPU; rehearse with --device cpu --tiny\n"


def test_every_step_is_a_module_and_needs_earlier_ones():
    names = list(steps.STEPS)
    for name, step in steps.STEPS.items():
        assert callable(importlib.import_module(f"benchmarks.device_steps.{name}").run)
        assert all(names.index(need) < names.index(name) for need in step.needs)
    assert {number for step in steps.STEPS.values() for number in step.checks} == set(steps.CHECKS)


def test_steps_whose_files_are_missing_run_before_those_that_need_them():
    assert devices.with_needs(["rungs"], lambda need: False) == ["nets", "rungs"]
    assert devices.with_needs(["rungs"], lambda need: True) == ["rungs"]
    assert devices.with_needs(["peers", "samples"], lambda need: need == "nets") == ["samples", "gateway", "peers"]
    assert devices.with_needs(["peers"], lambda need: False) == ["nets", "gateway", "peers"]


def test_a_summary_is_good_if_all_targets_that_are_held_are_met():
    found = devices.summary([*MEASURED, {"step": "rungs", "ms": 1}, check_line(10, False, False)], [], whole=True)

    assert found["ok"]
    assert [line["check"] for line in found["checks"]] == [9, 10, 10, 11, 12, 13, 14]
    assert found["unmeasured"] == [15]


@pytest.mark.parametrize(
    ("measured", "failed"),
    [([*MEASURED, check_line(12, False, True)], []), (MEASURED, ["memory"]), (MEASURED[1:], [])],
    ids=["a missed target", "a failed step", "a check that was not measured"],
)
def test_a_summary_is_not_good_with(measured, failed):
    assert not devices.summary(measured, failed, whole=True)["ok"]


def test_a_part_of_the_steps_need_not_measure_all_checks():
    assert devices.summary(MEASURED[:2], [], whole=False)["ok"]


def test_a_check_states_target_and_whether_it_is_met_and_held(capsys):
    report = importlib.import_module("benchmarks.device_steps.report").Report("rungs", "a card", False)

    report.check(9, "cells", 0.5, (">=", 0.75), always=True)
    report.check(10, "ratio", 1.05, ("<=", 1.1))
    report.check(15, "requests", 1234.5678, None)
    report.check(11, "ratio", float("nan"), ("<=", 2.0))

    found = [(line["value"], line["target"], line["met"], line["held"]) for line in lines(capsys.readouterr().out)]
    assert found == [
        (0.5, ">= 0.75", False, True),
        (1.05, "<= 1.1", True, False),
        (1234.57, None, True, False),
        ("nan", "<= 2", False, False),
    ]


def test_differences_of_answers_are_the_largest_of_all_images():
    compare = importlib.import_module("benchmarks.device_steps.answers").compare

    def scores(*values):
        return SimpleNamespace(probabilities=np.array(values))

    def mask(*cells):
        return SimpleNamespace(mask=np.array(cells), probabilities=None)

    found = compare([scores(0.5, 0.25), scores(0.25, 0.5)], [scores(0.5, 0.375), scores(0.75, 0.5)])
    assert found == {"images": 2, "probability": 0.5, "equal_top": 0.5}
    found = compare([mask(0, 1), mask(1, 1, 1)], [mask(0, 0), mask(1, 1, 1)])
    assert found == {"images": 2, "equal_cells": 0.8, "cells": 5}


def test_a_part_that_fails_is_reported_and_the_step_goes_on(capsys):
    report = importlib.import_module("benchmarks.device_steps.report").Report("rungs", "a card", False)

    report.attempt("half", lambda: 1 // 0)
    report.attempt("whole", lambda: None)

    (line,) = lines(capsys.readouterr().out)
    assert line["what"] == "half"
    assert line["error"] == "ZeroDivisionError: integer division or modulo by zero"
    assert report.failed
