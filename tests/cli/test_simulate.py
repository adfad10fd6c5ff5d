"""`tta-server simulate`: the scenarios that are shipped, what it prints and writes, and its mistakes."""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.support.commands import check_mistake, run
from tests.support.references import MODELS
from tta_server.cli import plots
from tta_server.errors import ConfigError
from tta_server.simulation.figures import COLUMNS

SCENARIOS = MODELS.parent / "docs" / "scenarios"


def done(*arguments: object) -> str:
    """What it printed."""
    result = run("simulate", *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def mistake(*arguments: object) -> str:
    return check_mistake(run("simulate", *arguments))


def short(folder: Path, name: str, **changes: Any) -> Path:
    """A shipped scenario cut to 200 requests, beside what it names."""
    found = yaml.safe_load((SCENARIOS / f"{name}.yaml").read_text())
    found.pop("duration_s", None)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(found | {"requests": 200} | changes, sort_keys=False))
    if not (folder / "trace.csv").exists():
        (folder / "trace.csv").symlink_to(SCENARIOS / "trace.csv")
    return path


@pytest.mark.parametrize("name", sorted(path.stem for path in SCENARIOS.glob("*.yaml")))
def test_shipped_scenarios_run(tmp_path: Path, name: str) -> None:
    printed = done("--scenario", short(tmp_path, name), "--loads", "0.5,2")
    for heading in ("load", "offered", "SLO", "goodput", "refused", "stopped by", "0.5x", "2x"):
        assert heading in printed


def test_it_writes_each_load_as_json_csv_and_picture(tmp_path: Path) -> None:
    table, picture = tmp_path / "points.csv", tmp_path / "curves.png"
    options = ("--loads", "0.5,1,4", "--json", "--csv", table, "--plot", picture)
    rows = json.loads(done("-s", short(tmp_path, "clothing", slots=2), *options))
    assert [row["load"] for row in rows] == [0.5, 1, 4]
    assert [row["mean_views"] for row in rows] == sorted((row["mean_views"] for row in rows), reverse=True)
    assert all(row["slo"] == 1 and row["offered"] == 200 for row in rows)
    assert all(row["agreement"] is None for row in rows)
    with table.open(newline="") as file:
        written = list(csv.DictReader(file))
    assert list(written[0]) == list(COLUMNS)
    assert [float(row["goodput_per_s"]) for row in written] == pytest.approx(
        [row["goodput_per_s"] for row in rows], rel=1e-5
    )
    assert math.isnan(float(written[0]["agreement"]))
    with Image.open(picture) as opened:
        assert opened.width > 400


def test_the_csv_can_be_drawn_beside_a_real_run(tmp_path: Path) -> None:
    done("-s", short(tmp_path, "clothing"), "--loads", "0.5,1", "--csv", tmp_path / "simulated.csv")
    drawn = [sys.executable, "-m", "loadtest.plot", str(tmp_path / "simulated.csv")]
    result = subprocess.run(drawn, cwd=MODELS.parent, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "openloop-clothing.png").stat().st_size > 1000


def test_several_numbers_of_slots_are_several_rows(tmp_path: Path) -> None:
    rows = json.loads(done("-s", short(tmp_path, "clothing"), "--loads", "2", "--slots", "1,2,4", "--json"))
    assert [row["slots"] for row in rows] == [1, 2, 4]
    views = [row["mean_views"] for row in rows]
    assert views == sorted(views)
    assert "slots" in done("-s", short(tmp_path, "clothing"), "--loads", "2", "--slots", "1,2")


def test_workers_of_a_device_can_be_set(tmp_path: Path) -> None:
    path = short(tmp_path, "h100", loads=[1])
    (row,) = json.loads(done("-s", path, "--json"))
    assert (row["workers"], row["mean_views"]) == (15, 8)
    (row,) = json.loads(done("-s", path, "--workers", "0", "--json"))
    assert row["workers"] == 0


def test_it_finds_how_many_slots_are_enough(tmp_path: Path) -> None:
    path = short(tmp_path, "clothing")
    printed = done("-s", path, "--loads", "1,3", "--find-slots", "0.99", "--mean-views", "7.5")
    (one, three) = [int(line.split()[1]) for line in printed.splitlines() if " answer " in line]
    assert 2 <= one < three <= 3 * one + 2
    impossible = short(tmp_path, "clothing", traffic=[
        {"model": "clothing", "arrivals": {"poisson": 1}, "budget_ms": 3, "views": 8}
    ], requests=20)  # fmt: skip
    printed = done("-s", impossible, "--loads", "1", "--find-slots", "0.99", "--mean-views", "7.5")
    assert "not even 1024 slots answer 0.99 of all requests in time, with 7.5 views on average" in printed


def test_with_a_device_it_finds_the_workers_too(tmp_path: Path) -> None:
    """A worker decodes and answers 1,818 images a second; load 16 has 3,200."""
    path = short(tmp_path, "h100", requests=1500)
    printed = done("-s", path, "--loads", "16", "--find-slots", "0.99")
    assert "16x: 1 slot and 2 workers answer 0.99 of all requests in time." in printed
    printed = done("-s", path, "--loads", "16", "--workers", "1", "--find-slots", "0.99")
    assert "16x: not even 1024 slots and 1 worker answer 0.99 of all requests in time." in printed


def test_several_pools_are_reported_each_with_its_models(tmp_path: Path) -> None:
    path = short(tmp_path, "mixed")
    photos, ocr, both = json.loads(done("-s", path, "--loads", "1", "--json"))
    assert [photos[name] for name in ("model", "pool", "slots", "workers")] == ["photos", "gpu", 1, 6]
    assert [ocr[name] for name in ("model", "pool", "slots", "workers")] == ["ocr", "cpu", 1, 0]
    assert [both[name] for name in ("model", "pool", "slots", "busy_share")] == ["all", "", "", ""]
    assert both["offered"] == photos["offered"] + ocr["offered"] == 200
    assert 0 < ocr["busy_share"] < 1
    assert 0 < photos["busy_share"] < 1
    assert "mixed.yaml, gpu: 1 slot and 6 workers, cpu: 1 slot" in done("-s", path, "--loads", "1")


def test_options_can_be_for_one_of_several_pools(tmp_path: Path) -> None:
    path = short(tmp_path, "mixed", loads=[1])

    def sizes(*options: str) -> list[list[int]]:
        rows = json.loads(done("-s", path, "--json", *options))
        return [[row["slots"], row["workers"]] for row in rows if row["pool"]]

    assert sizes("--workers", "3") == [[1, 3], [1, 0]]
    assert sizes("--pool", "cpu", "--slots", "2,3") == [[1, 6], [2, 0], [1, 6], [3, 0]]
    (found,) = json.loads(done("-s", path, "--json", "--pool", "cpu", "--find-slots", "0.99", "--mean-views", "4"))
    assert found["model"] == "ocr"
    assert found["mean_views"] == 4


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--slots", "2"], "--slots: the scenario has the pools cpu, gpu; name one with --pool"),
        (["--find-slots", "0.9"], "--find-slots: the scenario has the pools cpu, gpu; name one with --pool"),
        (["--slots", "2", "--workers", "2"], "--slots: the scenario has the pools cpu, gpu"),
        (["--pool", "tpu", "--slots", "2"], "--pool is 'tpu'; known: cpu, gpu"),
        (["--workers", "0"], "--workers 0: the scenario has prepare_ms, which needs workers"),
    ],
)
def test_an_option_that_could_be_for_several_pools_is_refused(
    tmp_path: Path, options: list[str], sentence: str
) -> None:
    assert sentence in mistake("-s", short(tmp_path, "mixed", loads=[1]), *options)
    assert "--pool is 'a'; the scenario has no pools" in mistake("-s", short(tmp_path, "clothing"), "--pool", "a")


def test_help_teaches_by_example() -> None:
    printed = done("--help")
    assert "tta-server simulate --scenario docs/scenarios/clothing.yaml" in printed
    assert "--find-slots" in printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--loads", "1,x"], "--loads takes numbers over 0 and up to 1e+06 with commas between them, not '1,x'"),
        (["--loads", "0"], "--loads takes numbers over 0"),
        (["--slots", "1.5"], "--slots takes whole numbers from 1 to 1024 with commas between them, not '1.5'"),
        (["--slots", "2000"], "--slots takes whole numbers"),
        (["--csv", "no/such/folder/a.csv"], "no/such/folder/a.csv can't be written"),
        (["--plot", "no/such/folder/a.png"], "no/such/folder/a.png can't be written"),
        (["--plot", "picture.nope"], "picture.nope can't be written"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    assert sentence in mistake("-s", short(tmp_path, "clothing", requests=5, loads=[1]), *arguments)


def test_a_mistake_in_the_scenario_names_the_file_and_the_key(tmp_path: Path) -> None:
    path = short(tmp_path, "clothing", sluts=2)
    assert f"{path}: unknown key sluts; known: slots" in mistake("-s", path)


def test_without_matplotlib_it_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as raised:
        plots.check_plots()
    assert str(raised.value) == "--plot needs matplotlib, which is not installed: pip install 'tta-server[plots]'"
