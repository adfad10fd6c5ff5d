"""Test every guarantee on random non-square images with every kind of preprocessing."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.contract import CHECKS, PREPARATIONS, Case, Unseen, roundness
from tta_server.views.geometry import Size
from tta_server.views.guarantees import EXAMPLES, OUTPUTS, contract
from tta_server.views.spec import PRIMITIVES, read_view

CELLS = list(contract())
ROUNDING = {"point": 0.06, "box": 0.2, "heat map": 0.02}
"""Error in pixels of locating a blob in 8-bit pixels; undoing a view does not contribute to it."""


def check(cell, source, cases):
    """Check `cases` random cases that the view shows in full; raise AssertionError if one exceeds the guarantee."""
    done = tried = 0
    while done < cases:
        case = Case.drawn(source, cell.example)
        tried += 1
        assert tried < 50 + 20 * cases, "too few cases are shown in full"
        try:
            if not case.fits:
                continue
            distance = CHECKS[cell.output](case)
        except Unseen:
            continue
        assert distance <= cell.undo + ROUNDING.get(cell.output, 0), (case, distance)
        done += 1


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.view}-{cell.output}")
def test_a_guarantee_holds(cell):
    check(cell, np.random.default_rng([1, *cell.view.encode(), *cell.output.encode()]), 12)


@pytest.mark.slow
def test_ten_thousand_random_cases():
    source = np.random.default_rng(7)
    for cell in CELLS:
        check(cell, source, -(-10_000 // len(CELLS)))


def check_round(source, cases):
    """Check that a rotated disc is round, also on images that are not square: rotation keeps distances."""
    preps = [PREPARATIONS["free"], PREPARATIONS["free short"]]  # these keep the image's shape
    for number in range(cases):
        view = read_view({"rotate": float(source.uniform(-30, 30))})
        case = Case(preps[number % 2], view, Size(120, int(source.integers(80, 90))), number)
        assert 0.97 <= roundness(case) <= 1.03, case


def test_a_rotated_disc_is_round():
    check_round(np.random.default_rng(2), 20)


def test_every_primitive_and_output_has_a_guarantee():
    assert {view.split(",")[0] for view in EXAMPLES} == set(PRIMITIVES)
    assert {(cell.view, cell.output) for cell in CELLS} == {(view, output) for view in EXAMPLES for output in OUTPUTS}
    assert set(CHECKS) == set(OUTPUTS)


def test_symmetries_are_exact_and_other_views_within_half_a_pixel():
    exact = {"identity", "hflip", "vflip", "rot90", "transpose", "antitranspose"}
    assert all(cell.undo == 0 for cell in CELLS if cell.view in exact)
    assert all(cell.undo <= 0.5 for cell in CELLS)


def test_the_documentation_has_the_same_table():
    rows = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text().splitlines()
    for view in EXAMPLES:
        undone = [f"{cell.undo:g}" if cell.undo else "exact" for cell in CELLS if cell.view == view]
        assert f"| {view} | {' | '.join(undone)} |" in rows


def test_the_command_prints_the_table_as_text_and_json():
    command = [sys.executable, "-m", "tta_server", "policies", "--contract"]
    table = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "antitranspose" in table
    assert "0.5 px" in table
    found = json.loads(
        subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=60, check=True).stdout
    )
    assert found == [cell.to_dict() for cell in CELLS]
