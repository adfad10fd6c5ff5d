"""The command line: what it prints, what it exits with, and that every mistake is one sentence."""

import io
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import pytest
from PIL import Image
from rich.table import Table
from typer.testing import CliRunner

from tests.support import pictures, references
from tests.support.commands import check_mistake, run, run_process
from tests.support.references import MODELS
from tests.support.serving import Server, command, models_folder
from tta_server import __version__
from tta_server.cli.console import PlainConsole, printable
from tta_server.cli.main import cli
from tta_server.settings import Settings

COMMANDS = ["serve", "predict", "views", "models", "policies"]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(pictures.jpeg(seed=1))
    return path


# ---- predict ----


def test_predict_prints_a_table(photo: Path) -> None:
    done = run_process("predict", str(photo), "--model", "clothing", "--top-k", "2")
    assert done.returncode == 0, done.stderr
    assert "8 of 8" in done.stdout
    assert "all_views" in done.stdout
    best = int(references.clothing(pictures.opened(photo.read_bytes())).argmax())
    assert references.CLOTHING[best] in done.stdout


def test_predict_prints_json_that_is_the_answer(photo: Path) -> None:
    done = run("predict", str(photo), "--model", "clothing", "--policy", "plain", "--top-k", "10", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["image"] == str(photo)
    expected = references.clothing(pictures.opened(photo.read_bytes()))
    said = {entry["index"]: entry["probability"] for entry in told["prediction"]["top"]}
    assert [said[k] for k in range(10)] == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("bounds", "env"),
    [
        (["--max-pixels", "100"], {}),
        ([], {"TTA_MAX_PIXELS": "100"}),
        (["--max-bytes", "1000"], {}),
        ([], {"TTA_MAX_BYTES": "1000"}),
    ],
    ids=["--max-pixels", "TTA_MAX_PIXELS", "--max-bytes", "TTA_MAX_BYTES"],
)
def test_commands_that_read_images_take_the_bounds_of_serve(
    photo: Path, tmp_path: Path, bounds: list[str], env: dict[str, str]
) -> None:
    (tmp_path / "other.png").write_bytes(pictures.png(seed=2))
    named = "--max-pixels" if "PIXELS" in str([bounds, env]).upper() else "--max-bytes"
    for arguments in (
        ["predict", str(photo), "--model", "clothing"],
        ["views", str(photo), "--model", "clothing", "--out", str(tmp_path / "sheet.png")],
        ["calibrate", "clothing", "--data", str(tmp_path), "--epsilon", "0.9", "--out", str(tmp_path / "c.json")],
    ):
        done = run(*arguments, *bounds, env=env)
        assert done.returncode in (1, 2), done.stderr
        assert named in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command_name", ["predict", "views"])
def test_a_bound_out_of_range_is_a_mistake_that_names_it(photo: Path, command_name: str) -> None:
    arguments = [command_name, str(photo), "--model", "clothing", "--max-pixels", "0"]
    assert "--max-pixels" in check_mistake(run(*arguments))


def test_predict_goes_on_after_a_broken_image_and_exits_with_1(photo: Path, tmp_path: Path) -> None:
    broken, other = tmp_path / "broken.jpg", tmp_path / "other.png"
    broken.write_bytes(b"no image")
    other.write_bytes(pictures.png(seed=2))
    done = run("predict", str(photo), str(broken), str(other), "--model", "clothing", "--json")
    assert done.returncode == 1
    assert [json.loads(line)["image"] for line in done.stdout.splitlines()] == [str(photo), str(other)]
    assert f"{broken}: this is not an image" in done.stderr
    assert "Traceback" not in done.stderr


NAMES = ["a[bold].jpg", "q[/b].jpg", "x[?b].jpg", "a:smile:.jpg", "back\\[bold].jpg"]


def test_names_are_printed_as_they_are(photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "d["
    folder.mkdir()
    for name in NAMES:
        (folder / name.replace("/", "")).write_bytes(photo.read_bytes())
    names = [name.replace("/", "") for name in NAMES]
    done = run("predict", *(str(folder / name) for name in names), "d[/b]", "--model", "clothing")
    assert done.returncode == 1
    assert all(name in done.stdout for name in names), done.stdout
    assert "error: d[/b]: can't be read: No such file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["m[/b]", "m[bold]", ":smile:"])
def test_names_of_models_are_printed_as_they_are(tmp_path: Path, photo: Path, name: str) -> None:
    (tmp_path / "models").mkdir()
    folder = tmp_path / "models" / name.replace("/", "_")
    folder.symlink_to(MODELS / "cifar10")
    arguments = ["--models", str(folder.parent), "--model", folder.name]
    assert folder.name in run("models", "--models", str(folder.parent)).stdout
    assert run("predict", str(photo), *arguments).returncode == 0
    assert name in check_mistake(run("predict", str(photo), "--models", str(folder.parent), "--model", f"no{name}"))
    assert name in check_mistake(run("serve", "--models", str(tmp_path / f"no{name}")))
    out = tmp_path / f"sheet{folder.name}.png"
    assert out.name in run("views", str(photo), *arguments, "--out", str(out)).stdout


def test_what_is_not_printable_is_escaped() -> None:
    assert printable("a\x1b[31m\udcff\u202eé[b]\nc") == "a\\x1b[31m\\udcff\\u202eé[b]\nc"
    console = PlainConsole(file=io.StringIO(), width=80)
    table = Table("[bold]head", title=":smile:[/b]")
    table.add_row("\udcff\x1b[2J[/x]")
    console.print(table)
    console.print("[b]\x1b", "é")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(text in shown for text in ("[bold]head", ":smile:[/b]", "\\udcff\\x1b[2J[/x]", "[b]\\x1b é"))


def unreadable_files(folder: Path) -> dict[str, str]:
    """Paths that can't be read, and what is said of them."""
    os.mkfifo(folder / "pipe")
    return {
        str(folder / "pipe"): "this is a pipe without a writer",
        str(folder): "can't be read: Is a directory",
        str(folder / "none.jpg"): "can't be read: No such file or directory",
        "/dev/zero": "the file has more than the 20000000 bytes",
        "/proc/self/mem": "can't be read: Input/output error",
    }


def test_predict_goes_on_after_what_can_t_be_read(photo: Path, tmp_path: Path) -> None:
    found = unreadable_files(tmp_path)
    done = run("predict", *found, str(photo), "--model", "cifar10", "--json")
    assert done.returncode == 1
    assert [json.loads(line)["image"] for line in done.stdout.splitlines()] == [str(photo)]
    assert all(f"error: {path}: {sentence}" in done.stderr for path, sentence in found.items()), done.stderr
    assert "Traceback" not in done.stderr


def test_views_of_what_can_t_be_read_is_a_mistake(tmp_path: Path) -> None:
    for path, sentence in unreadable_files(tmp_path).items():
        told = check_mistake(run("views", path, "--model", "cifar10", "--out", str(tmp_path / "sheet.png")))
        assert f"{path}: {sentence}" in told


def test_an_image_may_come_through_a_pipe(photo: Path) -> None:
    arguments = command("predict", "/dev/stdin", "--model", "cifar10", "--json")
    done = subprocess.run(arguments, input=photo.read_bytes(), capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["image"] == "/dev/stdin"


def test_predict_says_how_much_of_a_mask_each_class_has(tmp_path: Path) -> None:
    path = tmp_path / "cells.png"
    path.write_bytes(pictures.encoded(pictures.nuclei()))
    done = run("predict", str(path), "--model", "nuclei", "--policy", "plain")
    assert done.returncode == 0, done.stderr
    assert "background" in done.stdout
    assert "%" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--policy", "nope"], "unknown policy 'nope'"),
        (["--policy", '["identity", "vflip"]'], "symmetries: hflip"),
        (["--merge", "median"], "unknown merge 'median'"),
        (["--budget-ms", "0"], "budget_ms takes"),
    ],
)
def test_predict_with_a_wrong_option_says_what_is_allowed(photo: Path, arguments: list[str], told: str) -> None:
    done = run("predict", str(photo), "--model", "clothing", *arguments)
    assert done.returncode in (1, 2)
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_model_names_those_that_are_there(photo: Path) -> None:
    assert "found: bloodcells, cifar10, clothing, mouse, nuclei, nuclei-count" in check_mistake(
        run("predict", str(photo), "--model", "none")
    )


def test_a_missing_image_is_a_usage_error() -> None:
    done = run("predict", "/none.jpg", "--model", "clothing")
    assert done.returncode == 2
    assert "does not exist" in done.stderr


# ---- views ----


@pytest.mark.parametrize("model", ["clothing", "nuclei"])
def test_views_writes_a_picture(tmp_path: Path, model: str) -> None:
    path, out = tmp_path / "in.img", tmp_path / "sheet.png"
    path.write_bytes(pictures.jpeg() if model == "clothing" else pictures.encoded(pictures.nuclei()))
    done = run("views", str(path), "--model", model, "--out", str(out))
    assert done.returncode == 0, done.stderr
    with Image.open(out) as sheet:
        assert sheet.format == "PNG"
        assert f"{sheet.width}x{sheet.height}" in done.stdout
        assert len(sheet.convert("RGB").getcolors(1 << 24) or ()) > 100


def test_views_of_a_broken_image_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(pictures.png()[:100])
    out = tmp_path / "sheet.png"
    check_mistake(run("views", str(path), "--model", "clothing", "--out", str(out)))
    assert not out.exists()


@pytest.mark.parametrize("model", ["bloodcells", "mouse", "nuclei-count"])
def test_every_kind_of_model_has_a_sheet(tmp_path: Path, model: str) -> None:
    (sample,) = (MODELS / model).glob("sample.*")
    done = run("views", str(sample), "--model", model, "--out", str(tmp_path / "sheet.png"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("model", ["bloodcells", "mouse", "nuclei"])
def test_predict_draws_on_the_image(tmp_path: Path, model: str) -> None:
    (sample,) = (MODELS / model).glob("sample.*")
    done = run("predict", str(sample), "--model", model, "--draw", str(tmp_path / "drawn.png"))
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "drawn.png") as drawn, Image.open(sample) as plain:
        assert drawn.size == plain.size
        assert drawn.convert("RGB").tobytes() != plain.convert("RGB").tobytes()


@pytest.mark.parametrize("command", [["predict", "--draw"], ["views", "--out"]])
@pytest.mark.parametrize(
    ("place", "words"),
    [("none/x.png", "there is no folder"), ("x.foo", "ends in one of .png"), ("folder.png", "is a folder")],
)
def test_a_place_where_no_picture_can_be_is_told_of_first(
    tmp_path: Path, photo: Path, command: list[str], place: str, words: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    name, option = command
    done = run(name, str(photo), "--model", "nuclei", option, str(tmp_path / place))
    assert done.returncode == 2
    assert words in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("images", "model", "words"),
    [(1, "clothing", "has no place on the image"), (2, "nuclei", "--draw takes one image")],
)
def test_what_can_t_be_drawn_is_said(tmp_path: Path, photo: Path, images: int, model: str, words: str) -> None:
    done = run("predict", *[str(photo)] * images, "--model", model, "--draw", str(tmp_path / "x.png"))
    assert done.returncode == 2
    assert words in " ".join(done.stderr.replace("│", " ").split())


# ---- lists and help ----


def test_models_are_listed() -> None:
    done = run_process("models")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("cifar10", "clothing", "nuclei", "segmentation", "any size"))


def test_models_are_listed_as_json() -> None:
    found = json.loads(run("models", "--json").stdout)
    assert [model["name"] for model in found] == [
        "bloodcells",
        "cifar10",
        "clothing",
        "mouse",
        "nuclei",
        "nuclei-count",
    ]


def test_policies_are_listed() -> None:
    done = CliRunner().invoke(cli, ["policies"])
    assert done.exit_code == 0
    assert "ten_crop" in done.stdout
    told = json.loads(CliRunner().invoke(cli, ["policies", "--json"]).stdout)
    assert {"d4", "hflip"} <= {preset["name"] for preset in told["presets"]}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    done = CliRunner().invoke(cli, [name, "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    assert "--help" in done.stdout


def test_help_lists_every_command() -> None:
    done = CliRunner().invoke(cli, ["--help"])
    assert done.exit_code == 0
    assert all(name in done.stdout for name in COMMANDS)
    assert __version__ in CliRunner().invoke(cli, ["--version"]).stdout


def test_every_serve_option_shows_its_variable() -> None:
    told = CliRunner().invoke(cli, ["serve", "--help"], env={"COLUMNS": "200"}).stdout
    for field in Settings.model_fields:
        assert f"TTA_{field.upper()}" in told


# ---- serve ----


def test_serve_takes_its_settings_from_the_environment(tmp_path: Path) -> None:
    folder = models_folder(tmp_path, "cifar10")
    env = {**os.environ, "TTA_PORT": "0", "TTA_MODELS": str(folder), "TTA_MAX_BYTES": "3000", "TTA_SLOTS": "1"}
    with Server(env=env) as server, server.client() as client:
        assert [model["name"] for model in client.get("/v1/models").json()["models"]] == ["cifar10"]
        small, large = pictures.encoded(pictures.pixels(16, 16)), bytes(3001)
        assert client.post("/v1/models/cifar10/predict", content=small).status_code == 200
        assert client.post("/v1/models/cifar10/predict", content=large).status_code == 413
        server.tell(signal.SIGINT)
        assert server.exit_status() == 0


def test_a_port_in_use_is_a_mistake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        sentence = check_mistake(run_process("serve", "--port", port, "--models", str(MODELS)))
    assert port in sentence
    assert "--port" in sentence


BROKEN = {
    "no yaml": "task: [",
    "not keys": "hello",
    "unknown key": "task: classification\nlabels: [a]\ncolour: red\n",
    "unknown task": "task: divination\n",
    "nothing": "",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_config_is_a_mistake_that_names_the_file(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "mine"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").symlink_to(MODELS / "cifar10" / "1" / "model.onnx")
    (folder / "tta.yaml").write_text(BROKEN[name])
    assert str(folder / "tta.yaml") in check_mistake(run("serve", "--port", "0", "--models", str(tmp_path)))


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


@pytest.mark.parametrize("command_name", ["serve", "models"])
def test_a_folder_without_models_is_a_mistake(tmp_path: Path, command_name: str) -> None:
    assert "no model found" in check_mistake(run(command_name, "--models", str(tmp_path)))
    assert "no such folder" in check_mistake(run(command_name, "--models", str(tmp_path / "none")))


@pytest.mark.parametrize(
    "arguments",
    [["--port", "99999"], ["--port", "-1"], ["--slots", "-1"], ["--max-bytes", "0"], ["--max-waiting", "0"]],
    ids=" ".join,
)
def test_a_setting_out_of_range_is_a_mistake_that_names_it(arguments: list[str]) -> None:
    assert arguments[0] in check_mistake(run("serve", *arguments))


@pytest.mark.parametrize(
    ("arguments", "env", "sentence"),
    [
        (["serve", "--max-pixels", "abc"], {}, "--max-pixels takes a whole number of at least 1, not 'abc'"),
        (["serve"], {"TTA_SLOTS": "1.5"}, "--slots takes a whole number from 1 to 1024, not '1.5'"),
        (["serve"], {"TTA_GRPC": "maybe"}, "--grpc takes true or false, not 'maybe'"),
        (["serve"], {"TTA_DRAIN_SECONDS": "x"}, "--drain-seconds takes a number of at least 0, not 'x'"),
        (
            ["predict", "a.jpg", "-m", "x", "--max-views", "0"],
            {},
            "--max-views takes a whole number of at least 1, not",
        ),
        (
            ["predict", "a.jpg", "-m", "x", "--top-k", "two"],
            {},
            "--top-k takes a whole number of at least 1, not 'two'",
        ),
        (["calibrate", "x", "-d", ".", "-e", "0.1", "-e", "b"], {}, "--epsilon takes a number, not 'b'"),
        (
            ["serve"],
            {"TTA_CORS_ORIGIN": "https://a.org,b.org"},
            "error: --cors-origin: 'https://a.org,b.org' is no origin",
        ),
    ],
    ids=str,
)
def test_a_value_of_the_wrong_kind_is_told_in_our_words(
    arguments: list[str], env: dict[str, str], sentence: str
) -> None:
    assert sentence in check_mistake(run(*arguments, env=env))


def test_grpc_may_be_switched_off_by_its_variable(tmp_path: Path) -> None:
    folder = models_folder(tmp_path, "cifar10")
    env = {**os.environ, "TTA_PORT": "0", "TTA_MODELS": str(folder), "TTA_GRPC": "false", "TTA_SLOTS": "1"}
    with Server(env=env) as server:
        assert server.url in (ready := next(line for line in server.lines["stderr"] if line.startswith("ready")))
        assert "gRPC" not in ready


def test_models_in_a_folder_that_is_not_there(photo: Path) -> None:
    told = check_mistake(run("predict", str(photo), "--model", "clothing", "--models", "/nonexist"))
    assert told == "error: /nonexist: no such folder; give a folder that holds <name>/tta.yaml for each model"


def test_an_unresolvable_host_is_a_mistake() -> None:
    check_mistake(run("serve", "--host", "no such host", "--port", "0"))


def test_the_ready_line_is_where_it_listens(server: Server) -> None:
    assert httpx.get(server.url + "/livez").json() == {"status": "alive"}
