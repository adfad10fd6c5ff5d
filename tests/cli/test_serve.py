"""`tta-server serve`: its settings, and mistakes that it names before it serves."""

import os
import re
import signal
import socket
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from typer.testing import CliRunner

from tests.support import pictures
from tests.support.commands import check_mistake, run, run_process
from tests.support.folders import CONFIG, FAILED, GARBAGE, GOOD, NO_RUN, NO_YAML, write_folder
from tests.support.named import LAYOUTS, bare_triton, embedded
from tests.support.references import MODELS
from tests.support.serving import Server, models_folder
from tta_server.cli.main import cli
from tta_server.cli.serve import _print_settings
from tta_server.cli.sources import flag, variable
from tta_server.settings import Settings

BROKEN = {
    "no yaml": "task: [",
    "not keys": "hello",
    "unknown key": "task: classification\nlabels: [a]\ncolour: red\n",
    "unknown task": "task: divination\n",
    "nothing": "",
}


def test_help_shows_the_flag_and_variable_of_every_setting() -> None:
    printed = CliRunner().invoke(cli, ["serve", "--help"], env={"COLUMNS": "200"}).stdout
    for field in Settings.model_fields:
        assert flag(field) in printed
        assert variable(field) in printed


def test_serve_takes_its_settings_from_a_file_and_the_environment(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    models_folder(tmp_path / "models", "cifar10")
    config = tmp_path / "server.toml"
    config.write_text('models = "models"\nport = 0\nmax_bytes = 1000\n')
    env = {**os.environ, "TTA_CONFIG": str(config), "TTA_MAX_BYTES": "3000", "TTA_SLOTS": "1", "TTA_PROT": "5"}
    with Server(env=env) as server, server.client() as client:
        server.wait_for("warning: unknown variable TTA_PROT is ignored; did you mean TTA_PORT")
        assert [model["name"] for model in client.get("/v1/models").json()["models"]] == ["cifar10"]
        small, large = pictures.encoded(pictures.pixels(16, 16)), bytes(3001)
        assert client.post("/v1/models/cifar10/predict", content=small).status_code == 200
        assert client.post("/v1/models/cifar10/predict", content=large).status_code == 413
        server.send_signal(signal.SIGINT)
        assert server.exit_status() == 0


def test_a_mistake_in_the_file_names_it_and_the_key(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text("prot = 0\n")
    sentence = check_mistake(run("serve", "--config", str(config)))
    assert sentence == f"error: {config}: unknown key prot; did you mean port?"


def test_a_port_in_use_is_a_mistake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        sentence = check_mistake(run_process("serve", "--port", port, "--models", str(MODELS)))
    where = f"127.0.0.1:{port}"
    assert sentence == f"error: can't listen on {where}: Address already in use; choose another with --host and --port"


def test_settings_that_differ_from_the_defaults_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    _print_settings(Settings())
    assert capsys.readouterr().err == ""
    _print_settings(Settings(port=0, grpc=False, cors_origin=("https://example.org",), max_bytes=20_000_000))
    rows = re.findall(r"^│ (\S+) +│ (\S+) +│$", capsys.readouterr().err, re.MULTILINE)
    assert rows == [("port", "0"), ("grpc", "False"), ("cors-origin", "https://example.org")]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_config_is_a_mistake_that_names_the_file(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "mine"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").symlink_to(MODELS / "cifar10" / "1" / "model.onnx")
    (folder / "tta.yaml").write_text(BROKEN[name])
    assert str(folder / "tta.yaml") in check_mistake(run("serve", "--port", "0", "--models", str(tmp_path)))


@pytest.mark.parametrize("name", FAILED)
def test_with_strict_one_broken_model_ends_the_command_with_its_reason(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path, GOOD, name)
    config = tmp_path / "server.toml"
    config.write_text("strict = true\n")
    common = ("serve", "--port", "0", "--grpc-port", "0", "--slots", "1", "--models", str(folder))
    for how, env in ((["--strict"], {}), (["--config", str(config)], {}), ([], {"TTA_STRICT": "true"})):
        assert name in check_mistake(run(*common, *how, env=env))


def test_without_any_model_that_can_be_loaded_the_command_ends_with_all_reasons(tmp_path: Path) -> None:
    """Whether that shows when they are loaded or when they are warmed up."""
    folder = write_folder(tmp_path, NO_YAML, GARBAGE)
    for count, more in ((2, []), (3, [NO_RUN])):
        write_folder(tmp_path, *more)
        done = run("serve", "--port", "0", "--grpc-port", "0", "--slots", "1", "--models", str(folder))
        assert done.returncode == 2
        assert "ready" not in done.stderr
        last = [line for line in done.stderr.splitlines() if line.startswith("error:")][-1]
        assert last.startswith(f"error: none of the {count} models can be served: model garbage: {folder / GARBAGE}")
        assert f"; model no-yaml: {folder / NO_YAML / 'tta.yaml'}: is not valid YAML" in last


def test_the_checks_of_a_model_that_are_off_are_printed_at_start(tmp_path: Path) -> None:
    off = CONFIG + "checks: {scores.logits: off, outputs.finite: on}\n"
    folder = write_folder(tmp_path, GOOD, config=off)
    with Server("--port", "0", "--slots", "1", "--models", str(folder)) as server:
        assert server.url
        found = [line.rstrip() for line in server.lines["stderr"] if line.startswith("warning:")]
    assert found == ["warning: model good: tta.yaml switches the check scores.logits off"]


def test_a_wrong_label_count_is_a_mistake_even_though_it_shows_only_when_warming(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").symlink_to(MODELS / "cifar10" / "1" / "model.onnx")
    config = (MODELS / "cifar10" / "tta.yaml").read_text().replace("ship, truck]", "ship]")
    (folder / "tta.yaml").write_text(config)
    assert "9 labels" in check_mistake(run("serve", "--port", "0", "--models", str(tmp_path)))


def test_a_model_file_that_is_none_is_a_mistake(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(b"no model")
    (folder / "tta.yaml").write_text((MODELS / "cifar10" / "tta.yaml").read_text())
    assert "model.onnx" in check_mistake(run("serve", "--port", "0", "--models", str(tmp_path)))


@pytest.mark.parametrize(
    "arguments",
    [["--port", "99999"], ["--port", "-1"], ["--slots", "-1"], ["--max-bytes", "0"], ["--max-waiting", "0"]],
    ids=" ".join,
)
def test_a_setting_out_of_range_is_a_mistake_that_names_it(arguments: list[str]) -> None:
    assert arguments[0] in check_mistake(run("serve", *arguments))


def test_single_models_are_served_under_their_given_names_everywhere(tmp_path: Path) -> None:
    """As KServe starts it: the folder is always /mnt/models; the bundled models are not served."""
    folders = {name: layout(tmp_path / f"{name}-files") for name, layout in LAYOUTS.items()}
    flags = [part for name, folder in folders.items() for part in ("--model", f"{name}={folder}")]
    with (
        Server("--port", "0", "--slots", "1", "--model-control", *flags) as server,
        server.client() as client,
        triton.InferenceServerClient(server.grpc) as grpc,
    ):
        assert [model["name"] for model in client.get("/v1/models").json()["models"]] == list(folders)
        for name in folders:
            answer = client.post(f"/v1/models/{name}/predict?budget_ms=8000", content=pictures.png())
            assert (answer.status_code, answer.json()["model"]) == (200, name), answer.text
            assert client.get(f"/v2/models/{name}").json()["name"] == name
            assert grpc.is_model_ready(name)
            infer(grpc, name)
        assert client.post("/v2/repository/models/own/load").status_code == 200
        metrics = client.get("/metrics").text
        assert {f'tta_model_ready{{model="{name}"}} 1.0' for name in folders} <= set(metrics.splitlines())
        (folders["own"] / "tta.yaml").write_text("task: [\n")
        refused = client.post("/v2/repository/models/own/load")
        assert refused.json()["error"] == "tta.yaml: is not valid YAML in line 2, column 1"
        index = client.post("/v2/repository/index").json()
        assert sorted((each["name"], each["state"]) for each in index) == [(name, "READY") for name in sorted(folders)]
        server.wait_for('"model": "ultralytics"', "stdout")


def infer(client: triton.InferenceServerClient, name: str) -> None:
    image = triton.InferInput("IMAGE", [1, 1], "BYTES")
    image.set_data_from_numpy(np.array([[pictures.png()]], np.object_))
    answer = client.infer(name, [image], timeout=8_000_000)
    assert answer.get_response().model_name == name


def test_a_single_model_beside_a_folder_of_models(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "zoo", GOOD)
    single = embedded(tmp_path / "mine")
    common = ("--port", "0", "--slots", "1", "--models", str(folder))
    with Server(*common, env={**os.environ, "TTA_MODEL": f"mine={single}"}) as server:
        ready = server.wait_for(r"serves? (.*) \(docs").group(1)
    assert ready == f"mine, {GOOD}"
    sentence = check_mistake(run("serve", *common, "--model", f"{GOOD}={single}"))
    assert sentence == f"error: --model {GOOD}={single}: {folder} has a model of that name; give another name"


def test_a_single_model_that_nothing_describes_ends_the_command_with_what_to_run(tmp_path: Path) -> None:
    folder = bare_triton(tmp_path / "models")
    sentence = check_mistake(run("serve", "--port", "0", "--grpc-port", "0", "--model", f"m={folder}"))
    assert f"{folder}/1/model.onnx: nothing states task" in sentence
    assert "run `tta-server init" in sentence


def test_grpc_may_be_switched_off_by_its_variable(tmp_path: Path) -> None:
    folder = models_folder(tmp_path, "cifar10")
    env = {**os.environ, "TTA_PORT": "0", "TTA_MODELS": str(folder), "TTA_GRPC": "false", "TTA_SLOTS": "1"}
    with Server(env=env) as server:
        assert server.url in (ready := next(line for line in server.lines["stderr"] if line.startswith("ready")))
        assert "gRPC" not in ready


def test_an_unresolvable_host_is_a_mistake() -> None:
    check_mistake(run("serve", "--host", "no such host", "--port", "0"))


def test_the_ready_line_is_where_it_listens(server: Server) -> None:
    assert httpx.get(server.url + "/livez").json() == {"status": "alive"}
