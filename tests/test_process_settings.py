"""A program that uses `load` keeps its process-wide settings."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import pictures
from tests.support.onnx_models import segmenter, write_model
from tests.support.serving import PATIENCE
from tests.support.toys import trap_image, trap_model
from tests.tasks.test_every_task import config
from tta_server import load

GLOBALS = """
import asyncio, decimal, faulthandler, gc, json, locale, logging, os, random, resource, signal, socket, sys, threading
import warnings


def settings():
    found = {
        "logging": [logging.root.level, str(logging.root.handlers), logging.root.manager.disable],
        "signals": {s.name: str(signal.getsignal(s)) for s in signal.Signals},
        "warnings": [str(one) for one in warnings.filters] + [str(warnings.showwarning)],
        "gc": [gc.isenabled(), gc.get_threshold(), gc.get_freeze_count(), len(gc.callbacks)],
        "limits": {n: resource.getrlimit(getattr(resource, n)) for n in dir(resource) if n.startswith("RLIMIT_")},
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "cores": sorted(os.sched_getaffinity(0)),
        "decimal": str(decimal.getcontext()),
        "locale": locale.setlocale(locale.LC_ALL),
        "hooks": [str(sys.excepthook), str(threading.excepthook), str(sys.unraisablehook), str(sys.displayhook)],
        "switching": sys.getswitchinterval(),
        "recursion": sys.getrecursionlimit(),
        "sockets": socket.getdefaulttimeout(),
        "random": hash(random.getstate()),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "mask": [os.umask(18), os.umask(18)],
        "loops": str(type(asyncio.get_event_loop_policy())),
        "faults": faulthandler.is_enabled(),
        "streams": [str(sys.stdout), str(sys.stderr)],
    }
    if "numpy" in sys.modules:
        import numpy
        found["numpy"] = [numpy.geterr(), str(numpy.get_printoptions()), str(numpy.random.get_state()[1][:9])]
    if "cv2" in sys.modules:
        import cv2
        found["cv2"] = [cv2.getNumThreads(), cv2.useOptimized(), cv2.utils.logging.getLogLevel()]
    if "PIL" in sys.modules:
        from PIL import Image, ImageFile
        found["PIL"] = [Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, ImageFile.MAXBLOCK]
    return found


def changes(before):
    after = settings()
    return {key: [before[key], after[key]] for key in before if before[key] != after[key]}
"""


def child(program: str, *arguments: str) -> Any:
    """What a program prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", GLOBALS + program, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_changes_no_setting_of_the_program() -> None:
    program = """
import cv2, numpy, onnxruntime, PIL.Image, PIL.ImageFile, prometheus_client, pydantic, simplejpeg
cv2.setNumThreads(3)
before = settings()
import tta_server
print(json.dumps(changes(before)))
"""
    assert child(program) == {}


LOAD = """
import cv2, io, numpy, PIL.Image, PIL.ImageFile, pickle
cv2.setNumThreads(3)
PIL.Image.MAX_IMAGE_PIXELS = 1234
logging.basicConfig(level=logging.ERROR)
import tta_server
before = settings()
inside = {}
with tta_server.load(sys.argv[1], slots=2) as model:
    image = numpy.random.default_rng(0).integers(0, 255, (40, 50, 3), numpy.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(image[:30, :40]).save(file, "PNG")
    for given in (image, file.getvalue(), b"no image"):
        try:
            model.predict(given, budget_ms=10_000)
        except tta_server.TTAError:
            pass
    inside = changes(before)
print(json.dumps([inside, changes(before)]))
"""


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_loading_predicting_and_closing_change_no_setting_of_the_program(tmp_path: Path, task: str) -> None:
    if task == "classification":
        folder = trap_model(tmp_path / "toy")
    else:
        folder = write_model(tmp_path / "toy", segmenter(), config(task, {"size": "free"}, {"kind": "probabilities"}))
    assert child(LOAD, str(folder)) == [{}, {}]


def test_another_thread_s_decompression_bombs_are_still_warned_of_and_refused(tmp_path: Path) -> None:
    bombs = {"warned": (12_000, 12_000), "refused": (46_000, 46_000)}
    for name, size in bombs.items():
        (tmp_path / f"{name}.png").write_bytes(pictures.png_that_says(*size))
    program = """
import tta_server
from PIL import Image
heard = {}

def look():
    for name in ("warned", "refused"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                Image.open(f"{sys.argv[2]}/{name}.png")
            except Image.DecompressionBombError:
                heard[name] = "error"
            else:
                heard[name] = [one.category.__name__ for one in caught if "Bomb" in one.category.__name__]

with tta_server.load(sys.argv[1], slots=1):
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
print(json.dumps(heard))
"""
    heard = child(program, str(trap_model(tmp_path / "toy")), str(tmp_path))
    assert heard == {"warned": ["DecompressionBombWarning"], "refused": "error"}


def test_our_limits_apply_whatever_limit_the_program_has(tmp_path: Path) -> None:
    """Pillow's own limit neither refuses what is allowed here, nor warns of it, nor is it needed."""
    (tmp_path / "huge.png").write_bytes(pictures.png_that_says(46_000, 46_000))
    (tmp_path / "small.png").write_bytes(pictures.png(60, 50))
    program = """
import tta_server
from PIL import Image
found = []
with tta_server.load(sys.argv[1], slots=1) as model, warnings.catch_warnings():
    warnings.simplefilter("error")
    for limit in (None, 10, 89478485):
        Image.MAX_IMAGE_PIXELS = limit
        try:
            model.predict(f"{sys.argv[2]}/huge.png", budget_ms=9000)
        except tta_server.TTAError as error:
            found.append(error.code)
        found.append(len(model.predict(f"{sys.argv[2]}/small.png", budget_ms=9000).receipt.views))
print(json.dumps(found))
"""
    assert child(program, str(trap_model(tmp_path / "toy")), str(tmp_path)) == ["too_large", 2] * 3


def test_commands_configure_the_libraries() -> None:
    program = """
import cv2
from PIL import Image
from typer.testing import CliRunner
from tta_server.cli.main import cli
assert CliRunner().invoke(cli, ["policies"]).exit_code == 0
print(json.dumps([cv2.getNumThreads(), Image.MAX_IMAGE_PIXELS]))
"""
    assert child(program) == [1, None]


def test_loading_reads_neither_variables_nor_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TTA_MAX_PIXELS", "TTA_MAX_BYTES", "TTA_SLOTS", "TTA_CONFIG"):
        monkeypatch.setenv(name, "none")
    with load(trap_model(tmp_path / "toy")) as model:
        assert model.predict(trap_image(), budget_ms=10_000).receipt.views
