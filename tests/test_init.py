"""A program that uses `load` keeps its own settings, and what it submits is what it meant."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import pictures
from tests.support.onnx_models import segmenter, write_model
from tests.support.serving import PATIENCE, until
from tests.support.toys import Switchable, switchable, trap_model, trapped
from tests.tasks.test_every_task import config
from tta_server import LoadedModel, load
from tta_server.application import Application
from tta_server.errors import InvalidInput
from tta_server.repository.loader import load_model
from tta_server.settings import Settings

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


def test_another_thread_s_bombs_are_still_warned_of_and_refused(tmp_path: Path) -> None:
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


def test_what_is_too_large_is_ours_to_say_whatever_limit_the_program_has(tmp_path: Path) -> None:
    """Pillow's own limit neither refuses what is allowed here, nor warns of it, nor is it needed."""
    (tmp_path / "huge.png").write_bytes(pictures.png_that_says(46_000, 46_000))
    (tmp_path / "small.png").write_bytes(pictures.png(60, 50))
    program = """
import tta_server
from PIL import Image
told = []
with tta_server.load(sys.argv[1], slots=1) as model, warnings.catch_warnings():
    warnings.simplefilter("error")
    for limit in (None, 10, 89478485):
        Image.MAX_IMAGE_PIXELS = limit
        try:
            model.predict(f"{sys.argv[2]}/huge.png", budget_ms=9000)
        except tta_server.TTAError as error:
            told.append(error.code)
        told.append(len(model.predict(f"{sys.argv[2]}/small.png", budget_ms=9000).receipt.views))
print(json.dumps(told))
"""
    assert child(program, str(trap_model(tmp_path / "toy")), str(tmp_path)) == ["too_large", 2] * 3


def test_our_own_commands_may_set_what_they_like() -> None:
    program = """
import cv2
from PIL import Image
from typer.testing import CliRunner
from tta_server.cli.main import cli
assert CliRunner().invoke(cli, ["policies"]).exit_code == 0
print(json.dumps([cv2.getNumThreads(), Image.MAX_IMAGE_PIXELS]))
"""
    assert child(program) == [1, None]


# ---- submitting ----


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[LoadedModel, Application, Switchable]]:
    """A model on one slot that answers nobody before it is released."""
    model, switch = switchable(load_model(trap_model(tmp_path / "toy")))
    application = Application(Settings(models=tmp_path, slots=1, drain_seconds=10.0), [model])
    application.warm()
    switch.mode = "stuck"
    with LoadedModel(application) as loaded:
        yield loaded, application, switch
        switch.mode = "works"
        switch.release.set()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    with load(trap_model(tmp_path_factory.mktemp("models") / "toy"), slots=1) as model:
        yield model


def test_frames_of_one_array_are_each_their_own(toy: LoadedModel) -> None:
    """A camera writes each frame into the same memory; all wait, behind the first, for the one slot."""
    frame = np.empty((8, 8, 3), np.uint8)
    busy = threading.Event()
    first = toy.submit(trapped("slow"), budget_ms=10_000, max_views=1)
    first.add_done_callback(lambda _: busy.set())
    futures = []
    for number in range(8):
        frame[:] = trapped(shade=20 * number)
        frame[..., number % 3] = 250
        futures.append(toy.submit(frame, include=["probabilities"], budget_ms=10_000))
    assert not busy.is_set()
    frame[:] = 0
    for number, future in enumerate(futures):
        frame[:] = trapped(shade=20 * number)
        frame[..., number % 3] = 250
        alone = toy.predict(frame.copy(), include=["probabilities"], budget_ms=10_000)
        expected = alone.prediction["probabilities"]
        np.testing.assert_allclose(future.result(PATIENCE).prediction["probabilities"], expected, atol=1e-6)


def test_a_future_that_is_cancelled_frees_its_views(held: tuple[LoadedModel, Application, Switchable]) -> None:
    loaded, application, _ = held
    registry = application.metrics.registry
    future = loaded.submit(trapped(), budget_ms=10_000)
    assert registry.get_sample_value("tta_jobs") == 1
    assert future.cancel()
    assert registry.get_sample_value("tta_jobs") == 0
    assert registry.get_sample_value("tta_left_total", {"model": "toy"}) == 1


def test_a_predict_that_is_interrupted_frees_its_views(
    held: tuple[LoadedModel, Application, Switchable], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, application, _ = held

    def interrupted(self: object, timeout: float | None = None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("concurrent.futures.Future.result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loaded.predict(trapped(), budget_ms=10_000)
    monkeypatch.undo()
    until(lambda: application.metrics.registry.get_sample_value("tta_jobs") == 0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        pytest.param({"policy": [object()]}, "policy is made of .*: object is none", id="object"),
        ({"policy": {"views": {1, 2}}}, "policy is made of .*: set is none"),
        ({"stop": {"epsilon": 1j}}, "stop is made of .*: complex is none"),
        ({"policy": 3}, "^policy takes a preset's name or a list of views, not 3$"),
        ({"policy": b"hflip"}, "^policy takes a preset's name or a list of views, not "),
        ({"stop": 3}, "^stop takes text, or a dict like {'epsilon': 0.01}, not 3$"),
        ({"include": 3}, "^include takes text or a list of names, not 3$"),
        ({"include": {"views": 1}}, "^include takes text or a list of names, not "),
        ({"top_k": "9" * 5000}, "^top_k takes a whole number of at least 1 and at most 4300 digits, not '999"),
        ({"max_views": True}, "max_views takes no True"),
        ({"budget_ms": np.True_}, "budget_ms takes no True"),
    ],
    ids=str,
)
def test_options_that_can_not_be_spelled_are_refused(toy: LoadedModel, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        toy.submit(trapped(), **options)


def test_what_to_include_may_be_any_row_of_names(toy: LoadedModel) -> None:
    names = ["agreement", "probabilities"]
    expected = set(toy.predict(trapped(), include=names, budget_ms=10_000).prediction)
    for include in ((name for name in names), dict.fromkeys(names).keys(), ",".join(names)):
        assert set(toy.predict(trapped(), include=include, budget_ms=10_000).prediction) == expected


def test_numbers_may_be_numpy_s(toy: LoadedModel) -> None:
    answer = toy.predict(
        trapped(), policy=["identity", {"shift": np.array([1, 0])}], max_views=np.int64(2), budget_ms=np.float32(9000)
    )
    assert answer.receipt.planned == 2
