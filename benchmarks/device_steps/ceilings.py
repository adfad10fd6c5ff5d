"""What bounds a device: copies, matrix products, uploads; and JPEG decoding with resizing on the cores."""

import importlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from benchmarks.device_steps.card import has
from benchmarks.device_steps.report import Report
from benchmarks.device_steps.setting import Setting, server_cores
from benchmarks.device_steps.timing import median_ms
from benchmarks.server import MODELS

UPLOADS = {"canvas 256x341": 262_000, "8 views, fp16": 2_410_000, "8 views, fp32": 4_820_000}
"""Bytes that a request of eight views of 224x224 may send to the device."""
PHOTO_SIZES = ((400, 533), (768, 1024))
CANVAS = (256, 341)


def run(setting: Setting, report: Report) -> None:
    if has("torch"):
        report.attempt("memory", partial(_copies, setting, report))
        report.attempt("products", partial(_products, setting, report))
    else:
        report.skip("copies and products", "torch is not installed")
    if setting.is_cuda and has("torch"):
        report.attempt("uploads", partial(_uploads, report))
    else:
        report.skip("uploads", "there is no GPU, or torch is not installed")
    report.attempt("decoding", partial(_decoding, setting, report))


def _finished(torch: Any, setting: Setting, action: Callable[[], object]) -> Callable[[], None]:
    """The action, and the wait for its end."""

    def waited() -> None:
        action()
        if setting.is_cuda:
            torch.cuda.synchronize()

    return waited


def _copies(setting: Setting, report: Report) -> None:
    torch = importlib.import_module("torch")
    count = 1 << (22 if setting.tiny else 30)
    source = torch.ones(count, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    ms = median_ms(_finished(torch, setting, lambda: target.copy_(source)))
    report.say(what="copy in memory, read and written", mb=round(count / 1e6), gb_per_s=round(2 * count / ms / 1e6, 1))


def _products(setting: Setting, report: Report) -> None:
    torch = importlib.import_module("torch")
    side = 256 if setting.tiny else 8192
    for dtype in (torch.float16, torch.float32) if setting.is_cuda else (torch.float32,):
        a, b = (torch.randn(side, side, dtype=dtype, device=setting.device) for _ in range(2))
        ms = median_ms(_finished(torch, setting, partial(torch.mm, a, b)), runs=10)
        report.say(what="matrix product", dtype=str(dtype), side=side, tflops=round(2 * side**3 / ms / 1e9, 3))


def _uploads(report: Report) -> None:
    torch = importlib.import_module("torch")
    for name, count in UPLOADS.items():
        there = torch.empty(count, dtype=torch.uint8, device="cuda")
        for pinned in (True, False):
            here = torch.empty(count, dtype=torch.uint8, pin_memory=pinned)
            for what, target, source in (("upload", there, here), ("download", here, there)):

                def copy(target: Any = target, source: Any = source) -> None:
                    target.copy_(source, non_blocking=True)
                    torch.cuda.synchronize()

                us = median_ms(copy, runs=50) * 1e3
                report.say(what=what, of=name, kb=count // 1000, pinned=pinned, us=round(us, 1))


def _decoding(setting: Setting, report: Report) -> None:
    """Photos decoded and resized by as many threads as the server has cores, and by one."""
    whole = len(server_cores())
    for size, data in _jpegs():

        def decode(data: bytes = data) -> None:
            Image.fromarray(simplejpeg.decode_jpeg(data)).resize(CANVAS, Image.Resampling.BILINEAR)

        rates = {threads: round(_rate(decode, threads, setting.seconds(1.5))) for threads in sorted({1, whole})}
        report.say(what="JPEG decoded and resized", pixels=size, kb=len(data) // 1000, per_s_by_threads=rates)


def _jpegs() -> Iterator[tuple[str, bytes]]:
    photo = Image.open(MODELS / "clothing" / "sample.jpg").convert("RGB")
    for width, height in PHOTO_SIZES:
        file = io.BytesIO()
        Image.fromarray(np.asarray(photo.resize((width, height)))).save(file, "JPEG", quality=90)
        yield f"{width}x{height}", file.getvalue()


def _rate(action: Callable[[], None], threads: int, seconds: float) -> float:
    """Runs a second of all threads together."""
    counts, start = [0] * threads, time.perf_counter()
    end = start + seconds

    def loop(number: int) -> None:
        while time.perf_counter() < end:
            action()
            counts[number] += 1

    started = [threading.Thread(target=loop, args=(number,)) for number in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)
