"""`tta-server score --url`: real servers that answer, refuse, hang, are killed and come back."""

import json
import math
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.cli.test_score import start, started
from tests.support.commands import Done, check_mistake, run
from tests.support.references import MODELS
from tests.support.scoring import content_of, rows_of, toy, write_images
from tests.support.serving import PATIENCE, Server, until

CLOSE = 1.1e-6
"""1e-6, and a step of a number that is rounded to six digits counts as one."""
MANY = 1200
KEY = "a-key-of-many-characters"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    toy(folder)
    return folder


@pytest.fixture(scope="module")
def toys(models: Path) -> Iterator[Server]:
    with Server("--port", "0", "--slots", "2", "--models", str(models)) as running:
        assert running.url
        yield running


def words(photos: Path, url: str, out: Path, *more: object) -> list[str]:
    return ["score", *map(str, (photos, "--url", url, "--model", "toy", "--out", out, "--format", "jsonl", *more))]


def distance(found: Any, expected: Any) -> float:
    """The largest difference of numbers; infinite where anything else differs."""
    if isinstance(expected, float) and isinstance(found, float):
        return abs(found - expected)
    if isinstance(expected, dict) and isinstance(found, dict) and found.keys() == expected.keys():
        return max((distance(found[key], expected[key]) for key in expected), default=0.0)
    if isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        return max(map(distance, found, expected), default=0.0)
    return 0.0 if found == expected else math.inf


@pytest.mark.parametrize(
    ("name", "kind"), [("clothing", "parquet"), ("bloodcells", "jsonl"), ("nuclei-count", "jsonl")]
)
def test_a_server_gives_the_rows_of_a_local_run(
    server: Server, bundled: Path, name: str, kind: str, tmp_path: Path
) -> None:
    sample = next((MODELS / name).glob("sample.*"), MODELS / "nuclei" / "sample.png")
    same = ("score", sample, "--model", name, "--stop", "all", "--max-views", 2, "--format", kind, "--out")
    remote = run(*same, tmp_path / "remote", "--url", server.url)
    local = run(*same, tmp_path / "local", "--models", bundled, "--batch", 1)
    assert (remote.returncode, local.returncode) == (0, 0), remote.stderr + local.stderr
    assert distance(_rows(tmp_path / "remote", kind), _rows(tmp_path / "local", kind)) <= CLOSE


def _rows(out: Path, kind: str) -> list[dict[str, Any]]:
    """The rows; of Parquet with maps as dicts, and what is JSON in a cell as its value."""
    if kind == "jsonl":
        return rows_of(out)
    rows = pq.read_table(out / "results").to_pylist(maps_as_pydicts="strict")
    return [row | {name: json.loads(row[name]) for name in ("receipt", "included")} for row in rows]


def test_a_file_that_is_too_large_for_the_server_is_a_row(server: Server, tmp_path: Path) -> None:
    """The server refuses it by its length, and does not read it."""
    photos = write_images(tmp_path / "photos", 3)
    (photos / "001.png").write_bytes(bytes(15_000_000))
    done = run(*words(photos, server.url, tmp_path / "out", "--model", "cifar10", "--give-up-after", 60))
    assert done.returncode == 0, done.stderr
    found = {row["id"]: row.get("error", "ok") for row in rows_of(tmp_path / "out")}
    assert found == {
        "000.png": "ok",
        "001.png": "the body has 15000000 bytes; the limit is 2000000 (--max-bytes)",
        "002.png": "ok",
    }


def test_failures_are_rows_with_the_servers_sentence_and_a_run_is_resumed(
    toys: Server, models: Path, tmp_path: Path
) -> None:
    photos, out = write_images(tmp_path / "photos", 300, [7, 290]), tmp_path / "out"
    done = run(*words(photos, toys.url, out))
    assert (done.returncode, "300 of 300, 2 failed" in done.stderr) == (0, True), done.stderr
    local = run("score", photos, "--model", models / "toy", "--out", tmp_path / "local", "--format", "jsonl", "-b", 4)
    assert local.returncode == 0
    assert distance(rows_of(out), rows_of(tmp_path / "local")) <= CLOSE
    assert run(*words(photos, toys.url, out, "--verify")).stdout == "2 shards are as written: 300 of 300 images\n"
    before = content_of(out)
    assert run(*words(photos, toys.url, out)).returncode == 0
    assert content_of(out) == before
    assert "was begun with options" in check_mistake(run(*words(photos, toys.url, out, "--merge", "vote")))


@pytest.mark.parametrize(("limit", "status"), [("3", 0), ("2", 3), ("20%", 3)])
def test_a_limit_of_failures_holds_with_a_server(toys: Server, tmp_path: Path, limit: str, status: int) -> None:
    photos, out = write_images(tmp_path / "photos", 10, [2, 5, 6]), tmp_path / "out"
    done = run(*words(photos, toys.url, out, "--max-failures", limit))
    assert done.returncode == status, done.stderr
    assert len(rows_of(out)) == 10


def test_a_folder_of_a_local_run_is_not_gone_on_with_by_a_server(toys: Server, models: Path, tmp_path: Path) -> None:
    photos, out = write_images(tmp_path / "photos", 2), tmp_path / "out"
    local = ("score", photos, "--model", models / "toy", "--out", out, "--format", "jsonl")
    assert run(*local).returncode == 0
    assert "was begun without a server" in check_mistake(run(*words(photos, toys.url, out)))
    assert run(*words(photos, toys.url, tmp_path / "other")).returncode == 0
    assert "was begun with a server" in check_mistake(run(*local, "--out", tmp_path / "other"))


def test_a_stop_rule_is_warned_of(toys: Server, tmp_path: Path) -> None:
    done = run(*words(write_images(tmp_path / "photos", 3), toys.url, tmp_path / "out", "--stop", "certain"))
    assert done.returncode == 0, done.stderr
    assert "warning: a server with several slots may run a view more" in done.stderr


def test_a_forecast_asks_the_server(toys: Server, tmp_path: Path) -> None:
    done = run(*words(write_images(tmp_path / "photos", 20), toys.url, tmp_path / "out", "--plan"))
    assert done.returncode == 0, done.stderr
    assert "one at a time; less where the server takes more at once" in done.stdout


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--batch", "4"], "--batch is up to the server; leave it out with --url"),
        (["--max-pixels", "9"], "--max-pixels is up to the server"),
        (["--merge", "median"], "unknown merge 'median'; toy knows"),
        (["--policy", "rotate"], "unknown policy 'rotate'"),
        (["--key-file", "nowhere"], "--key-file nowhere: can't be read: No such file or directory"),
        (["--cacert", "nowhere"], "--cacert nowhere: can't be used: No such file or directory"),
    ],
)
def test_a_mistake_is_one_sentence(toys: Server, tmp_path: Path, more: list[str], sentence: str) -> None:
    photos = write_images(tmp_path / "photos", 1)
    assert sentence in check_mistake(run(*words(photos, toys.url, tmp_path / "out", *more)))
    assert not (tmp_path / "out").exists()


def test_what_is_no_server_or_no_model_there_is_said(toys: Server, tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 1)
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert f"{nowhere}: can't be reached: Connection refused" in check_mistake(
        run(*words(photos, nowhere, tmp_path / "out"))
    )
    other = run(*words(photos, toys.url, tmp_path / "out", "--model", "other"))
    assert f"{toys.url}: unknown model 'other'" in check_mistake(other)
    by_folder = run(*words(photos, toys.url, tmp_path / "out", "--model", "models/toy"))
    assert "--model models/toy: with --url it is the name of a model of the server" in check_mistake(by_folder)
    keyless = run("score", photos, "--model", toys, "--out", tmp_path / "out", "--key-file", "file")
    assert "are for a server; give its address by --url" in check_mistake(keyless)


def test_a_server_with_keys_and_a_certificate(models: Path, tmp_path: Path) -> None:
    certificate, own = tmp_path / "cert.pem", tmp_path / "own.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", own, "-out", certificate,
         "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    (tmp_path / "keys").write_text(f"# of the server\n{KEY}\n")
    photos = write_images(tmp_path / "photos", 3)
    access = ("--keys", str(tmp_path / "keys"), "--tls-cert", str(certificate), "--tls-key", str(own))
    with Server("--port", "0", "--slots", "1", "--models", str(models), *access) as running:
        url = running.wait_for(r"ready: (https://\S+)").group(1)

        def score(*more: object, **env: str) -> Done:
            return run(*words(photos, url, tmp_path / "out", *more), env=env)

        assert "certificate" in check_mistake(score())
        without = check_mistake(score("--cacert", certificate))
        assert "this server requires a key" in without
        assert "(--key-file FILE, or TTA_KEY)" in without
        wrong = score("--cacert", certificate, TTA_KEY="another-key-of-many")
        assert "unknown key" in check_mistake(wrong)
        assert "another-key" not in wrong.stderr + wrong.stdout
        done = score("--cacert", certificate, "--key-file", tmp_path / "keys")
        assert done.returncode == 0, done.stderr
        again = score("--cacert", certificate, TTA_KEY=KEY)
        assert again.returncode == 0, again.stderr
        assert KEY not in (tmp_path / "out" / "manifest.json").read_text() + done.stderr


@pytest.mark.slow
def test_a_server_that_hangs_is_killed_and_comes_back_loses_nothing(models: Path, tmp_path: Path) -> None:
    photos, out, port = write_images(tmp_path / "photos", MANY, [5, 1100]), tmp_path / "out", str(free_port())
    serve = ("--port", port, "--slots", "2", "--models", str(models))
    with Server(*serve) as first:
        process = start(words(photos, first.url, out, "--threads", "8"))
        until(lambda: started(out, process))
        first.send_signal(signal.SIGSTOP)
        first.send_signal(signal.SIGKILL)
        first.exit_status()
    assert process.poll() is None  # it waits for the server
    with Server(*serve) as second:
        assert second.url
        _, stderr = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, stderr
        assert run(*words(photos, second.url, tmp_path / "whole")).returncode == 0
    rows = rows_of(out)
    assert [row["id"] for row in rows] == sorted(path.name for path in photos.iterdir())
    assert [row["id"] for row in rows if row["status"] == "failed"] == ["005.png", "1100.png"]
    assert distance(rows, rows_of(tmp_path / "whole")) <= CLOSE


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once_while_the_server_hangs(models: Path, tmp_path: Path) -> None:
    photos, out = write_images(tmp_path / "photos", MANY), tmp_path / "out"
    with Server("--port", "0", "--slots", "1", "--models", str(models)) as running:
        process = start(words(photos, running.url, out))
        until(lambda: started(out, process))
        running.send_signal(signal.SIGSTOP)
        try:
            process.send_signal(signal.SIGINT)
            assert process.stderr
            until(lambda: "once more ends at once" in process.stderr.readline())  # type: ignore[union-attr]
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=PATIENCE)
        finally:
            running.send_signal(signal.SIGCONT)
    assert process.returncode == 130, stderr
    assert len(rows_of(out)) % 256 == 0


@pytest.mark.slow
def test_a_run_gives_up_and_goes_on_later_but_not_with_another_model(models: Path, tmp_path: Path) -> None:
    photos, out, port = write_images(tmp_path / "photos", MANY), tmp_path / "out", str(free_port())
    own = Path(shutil.copytree(models, tmp_path / "models"))
    serve = ("--port", port, "--slots", "2", "--models", str(own))
    with Server(*serve) as first:
        url = first.url
        process = start(words(photos, url, out, "--give-up-after", "1"))
        until(lambda: started(out, process))
        first.send_signal(signal.SIGKILL)
        first.exit_status()
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2, stderr
    assert f"error: {url}: answered no image for" in stderr
    assert "Traceback" not in stderr
    done = len(rows_of(out))
    assert 0 < done < MANY
    config = (own / "toy" / "tta.yaml").read_text()
    (own / "toy" / "tta.yaml").write_text(config.replace("red, green", "rot, green"))
    with Server(*serve) as other:
        assert other.url
        assert "was begun with model" in check_mistake(run(*words(photos, url, out)))
    (own / "toy" / "tta.yaml").write_text(config)
    with Server(*serve) as second:
        assert second.url
        assert run(*words(photos, url, out)).returncode == 0
    assert [row["id"] for row in rows_of(out)] == sorted(path.name for path in photos.iterdir())


@pytest.mark.slow
def test_a_model_that_is_replaced_during_a_run_ends_it(models: Path, tmp_path: Path) -> None:
    photos, out = write_images(tmp_path / "photos", MANY), tmp_path / "out"
    own = Path(shutil.copytree(models, tmp_path / "models"))
    with Server("--port", "0", "--slots", "2", "--models", str(own), "--model-control") as running:
        process = start(words(photos, running.url, out))
        until(lambda: started(out, process))
        config = (own / "toy" / "tta.yaml").read_text()
        (own / "toy" / "tta.yaml").write_text(config.replace("red, green", "rot, green"))
        with running.client() as client:
            assert client.post("/v2/repository/models/toy/load", json={}).status_code == 200
        _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2, stderr
    assert "model toy has changed during the run" in stderr
    assert {entry["label"] for row in rows_of(out) for entry in row["prediction"]["top"]} == {"red", "green", "blue"}
