"""What making views and summing results add to the model: a batch of the server over the model alone, and equality."""

import statistics
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.device_steps import bare
from benchmarks.device_steps.answers import check_exact, compare, results
from benchmarks.device_steps.product import Batches, backends, photos, with_backend
from benchmarks.device_steps.report import Report, Target
from benchmarks.device_steps.setting import VIEWS, Setting
from benchmarks.device_steps.timing import median_ms

MOST = (1.15, 1.5)
"""Chain over model alone, of the large and of the small net."""
IMAGES = 4


def run(setting: Setting, report: Report) -> None:
    names = backends(setting, report)
    for net, most in zip(setting.nets, MOST, strict=True):
        for name in names:
            report.attempt(f"{net}, {name}", partial(_chain, setting, report, net, name, most))
    for name in names:
        report.attempt(f"equality, {name}", partial(_equality, setting, report, name))


def _chain(setting: Setting, report: Report, net: str, name: str, most: float) -> None:
    """The largest batch: slabs uploaded, views made, model run, results summed and downloaded.

    The slabs are collected on the cores while the batch before runs (`prepare`), so that is no part of the chain.
    """
    rows = setting.rungs[-1]
    alone = bare.fastest(setting, net, [rows])[rows]
    batches = Batches(setting.folder(name, net), photos(setting), rows)
    batch = batches.batch(rows)
    model_ms = median_ms(alone, limit_s=setting.seconds(1.0))
    parts = [batch() for _ in range(8 if setting.tiny else 40)][3:]
    stages = {
        stage: round(statistics.median(getattr(part, stage) for part in parts) * 1e3, 3)
        for stage in ("prepare", "infer", "read")
    }
    chain_ms = stages["infer"]
    report.say(net=net, backend=name, precision=setting.precision, rows=rows, images=rows // VIEWS,
               chain_ms=round(chain_ms, 4), model_alone_ms=round(model_ms, 4), stages_ms=stages)  # fmt: skip
    target: Target = ("<=", most) if name == "onnxruntime" else None  # it runs the model that is measured alone
    report.check(11, f"{net}, {name}: a batch of {rows} views over the model alone", chain_ms / model_ms, target)
    batches.close()


def _equality(setting: Setting, report: Report, name: str) -> None:
    """The large net in full precision by this backend, and by ONNX Runtime on the CPU."""
    net = setting.nets[0]
    with TemporaryDirectory() as made:
        here = with_backend(setting.folder("onnxruntime", net), Path(made) / "cpu" / net, {"name": "onnxruntime"})
        there = with_backend(setting.folder(name, net), Path(made) / "device" / net, exact(setting, name))
        images = photos(setting)[:IMAGES]
        wanted = results(here, images)
        for policy, answers in results(there, images).items():
            found = compare(answers, wanted[policy])
            report.say(
                net=net, what="answers against the CPU's", backend=name, policy=policy, precision="exact", **found
            )
            check_exact(report, f"{net}, {name}, {policy} policy", found)


def exact(setting: Setting, name: str = "onnxruntime") -> dict[str, str | int]:
    """The backend to compare with the CPU's; on the CPU, views made by a graph stand for those of a device."""
    return setting.backend(name, "exact") if setting.is_cuda else {"name": name, "views": "graph"}
