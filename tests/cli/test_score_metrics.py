"""A run's metrics: what they count, over HTTP, from the start of a run to its end."""

import re
import socket
import subprocess
import time
from math import isnan
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cli.test_score import start, words
from tests.support.commands import check_mistake, run
from tests.support.scoring import BROKEN, color_image, made_rows, toy, write_images
from tests.support.serving import PATIENCE, until
from tta_server.cli.score_metrics import Endpoint, ScoreMetrics, serve_metrics
from tta_server.cli.score_progress import ScoreProgress
from tta_server.errors import ConfigError
from tta_server.scoring.output import ShardEntry

LOCAL = Endpoint("127.0.0.1", 0)


def samples(text: str) -> dict[str, float]:
    """Name, with the value of its label if it has one -> value."""
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def entry(shard: int, images: int, failed: int, views: int) -> ShardEntry:
    return ShardEntry(shard, "part", images, failed, views, 1, "")


def scraped(capsys: pytest.CaptureFixture[str]) -> str:
    (address,) = re.findall(r"metrics at (http://\S+)", capsys.readouterr().err)
    return httpx.get(address).raise_for_status().text


def test_what_was_done_before_and_what_is_done_now(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A shard of 4 images before, 1 of them failed, with 5 views; now 2 images of 2 views each, and one that fails."""
    entries = {0: entry(0, 4, 1, 5)}
    found = made_rows(toy(tmp_path), [color_image((9, 200, 9)), BROKEN, color_image((200, 9, 9))])
    progress = ScoreProgress(20, entries.values())
    metrics = ScoreMetrics(progress, entries)
    with serve_metrics(metrics, LOCAL):
        before = samples(scraped(capsys))
        for each in found:
            progress.add(each)
        entries[1] = entry(1, 3, 1, 4)
    assert isnan(before["tta_score_expected_end_timestamp_seconds"])
    assert before["tta_score_images_per_second"] == 0
    with serve_metrics(metrics, LOCAL):
        after = samples(scraped(capsys))
    names = ["tta_score_images_total ok", "tta_score_images_total failed", "tta_score_views_total"]
    names += ["tta_score_written_shards", "tta_score_input_images"]
    assert [before[name] for name in names] == [3, 1, 5, 1, 20]
    assert [after[name] for name in names] == [5, 2, 9, 2, 20]
    assert after["tta_score_images_per_second"] > 0
    assert after["tta_score_expected_end_timestamp_seconds"] > time.time()
    stages = {name.split()[1]: value for name, value in after.items() if name.startswith("tta_score_stage_seconds")}
    of_answers = [row.stages_ms for row in found if row.error is None]
    assert stages == pytest.approx({stage: sum(one[stage] for one in of_answers) / 1e3 for stage in of_answers[0]})


def test_a_port_that_is_taken_is_one_sentence(tmp_path: Path) -> None:
    progress = ScoreProgress(1, [])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        endpoint = Endpoint("127.0.0.1", port)
        with (
            pytest.raises(
                ConfigError, match=f"can't serve metrics on 127.0.0.1:{port}: Address already in use; choose"
            ),
            serve_metrics(ScoreMetrics(progress, {}), endpoint),
        ):
            pass
        photos = write_images(tmp_path / "photos", 1)
        done = run(*words(photos, toy(tmp_path), tmp_path / "out", "--metrics-port", str(port)))
        assert "choose another with --metrics-host and --metrics-port" in check_mistake(done)


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stderr
    for line in process.stderr:
        if found := re.search(r"metrics at (http://127\.0\.0\.1:\d+/metrics)", line):
            return found[1]
    raise AssertionError("the run has ended")


def test_a_run_is_watched_while_it_lasts(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 3000, [3])
    process = start(words(photos, toy(tmp_path), tmp_path / "out", "--metrics-port", "0"))
    address, found = address_of(process), dict[str, float]()

    def has_failed() -> bool:
        """The fourth image was scored, which is none."""
        found.update(samples(httpx.get(address).raise_for_status().text))
        return found["tta_score_images_total failed"] > 0

    until(has_failed)
    assert 0 < found["tta_score_images_total ok"] <= 2999
    assert found["tta_score_input_images"] == 3000
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, stderr
    assert "3000 of 3000, 1 failed" in stderr
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)
