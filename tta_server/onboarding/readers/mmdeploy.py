"""mmdeploy's pipeline.json, deploy.json and detail.json, which `--dump-info` writes (backend/sdk/export_info.py).

The postprocess component says what outputs mean, as csrc/mmdeploy/codebase reads them: ResizeBBox `dets` [N, M, 5] and
`labels` [N, M] (mmdet/object_detection.cpp); ResizeMask class numbers [N, 1, h, w] unless `with_argmax` is false
(mmseg/segment.cpp); heads of classifiers probabilities, since the exported graph ends with a softmax or, of several
labels, a sigmoid (mmdeploy/codebase/mmpretrain/models/classifiers/base.py). None of the files has names of classes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from tta_server.onboarding.evidence import Evidence, Fact, Finding, Note, Refusal
from tta_server.onboarding.model_file import ModelFile
from tta_server.onboarding.readers.fields import Fields, Threshold, read_fields
from tta_server.onboarding.readers.mmdeploy_input import transform_facts

CLASSIFIERS = ("mmcls", "mmpretrain")
MULTILABEL = ("MultiLabel", "CSRA")
"""How names of heads of several labels begin."""
SERVED = "ResizeBBox, ResizeMask and the heads of mmpretrain are"
TASKS = {"ObjectDetection": "detection", "Segmentation": "segmentation", "Classification": "classification"}
"""Task of detail.json -> task; `InstanceSegmentation` and others are not served."""
CLASSES = {"Detector": "detection", "Segmentor": "segmentation", "Classifier": "classification"}
"""The same of deploy.json."""


class _Params(Fields):
    score_thr: Threshold | None = None
    conf_thr: Threshold | None = None
    with_argmax: bool | None = None


class _Detail(Fields):
    task: str | None = None
    with_argmax: bool | None = None


def read_mmdeploy(evidence: Evidence) -> Iterator[Finding]:
    """Task, output and input of an exported model; deploy.json and detail.json give the task if they lie alone."""
    for document in evidence.documents:
        tasks = _tasks(document.content)
        if tasks is not None:
            yield from _pipeline(document.name, tasks, evidence)
            return
    yield from _alone(evidence)


def _tasks(content: Any) -> list[dict[str, Any]] | None:
    """The steps of a pipeline.json; None for any other document."""
    pipeline = content.get("pipeline") if isinstance(content, dict) else None
    tasks = pipeline.get("tasks") if isinstance(pipeline, dict) else None
    found = [task for task in tasks if isinstance(task, dict)] if isinstance(tasks, list) else []
    return found if any(task.get("module") in ("Transform", "Net") for task in found) else None


def _pipeline(name: str, tasks: list[dict[str, Any]], evidence: Evidence) -> Iterator[Finding]:
    posts = [task for task in tasks if task.get("name") == "postprocess" or "component" in task]
    if len(posts) != 1:
        yield Refusal("task", f"{name}: has {len(posts)} postprocess steps; a model that is served has one")
        return
    yield from _output(name, posts[0], evidence)
    for task in tasks:
        transforms = task.get("transforms")
        if task.get("module") == "Transform" and isinstance(transforms, list):
            yield from transform_facts(name, transforms, evidence.file)


def _output(name: str, post: Mapping[str, Any], evidence: Evidence) -> Iterator[Finding]:
    component, module = str(post.get("component", "")), str(post.get("module", ""))
    stated = post.get("params")
    params = read_fields(_Params, "task", f"{name}: params", stated if isinstance(stated, dict) else {})
    source = f"{name}: postprocess component {component}"
    if isinstance(params, Refusal):
        yield params
    elif component == "ResizeBBox":
        yield from _boxes(source, params, evidence.file)
    elif component == "ResizeMask":
        yield from _maps(source, params, evidence)
    elif module in CLASSIFIERS:
        is_multilabel = component.startswith(MULTILABEL)
        yield Fact("task", "multilabel" if is_multilabel else "classification", source)
        yield Fact("output.kind", "probabilities", f"mmdeploy's graph ends with a {_last(is_multilabel)}")
    else:
        yield Refusal("task", f"{source}: models of that kind are not served yet; {SERVED}")


def _last(is_multilabel: bool) -> str:
    return "sigmoid" if is_multilabel else "softmax"


def _boxes(source: str, params: _Params, file: ModelFile) -> Iterator[Finding]:
    outputs = {output.name: output for output in file.tensors}
    if not {"dets", "labels"} <= outputs.keys() or outputs["dets"].sizes[2:] not in ((5,), (None,)):
        shapes = ", ".join(f"{name} {output.text}" for name, output in outputs.items())
        yield Refusal("task", f"{source} takes dets [N, M, 5] and labels [N, M], but the file's outputs are {shapes}")
        return
    yield Fact("task", "detection", source)
    yield Fact("output.head", "mmdeploy", f"{source}: dets and labels")
    score = params.score_thr if params.conf_thr is None else params.conf_thr
    if score is not None:
        yield Fact("output.min_score", score, f"{source}: score_thr")
    if "masks" in outputs:
        yield Note(f"{source}: the file's masks of single objects are left out")


def _maps(source: str, params: _Params, evidence: Evidence) -> Iterator[Finding]:
    yield Fact("task", "segmentation", source)
    detail = _detail(evidence)
    argmax = params.with_argmax if params.with_argmax is not None else detail.with_argmax
    maps = [output for output in evidence.file.tensors if len(output.sizes) == 4]
    channels = maps[0].sizes[1] if len(maps) == 1 else None
    if argmax is not False and channels in (None, 1):
        yield Fact("output.kind", "classes", f"{source}: with_argmax is true, or not stated")
    elif argmax is not True and channels != 1:
        yield Fact("output.multilabel", False, f"{source}: one class a pixel")
    else:
        yield Refusal(
            "output.kind",
            f"{source}: with_argmax is {argmax}, but the file's output {maps[0].name} is {maps[0].text}; state "
            "output.kind",
        )


def _detail(evidence: Evidence) -> _Detail:
    """The parts of detail.json that are read; empty if there is none."""
    found = evidence.document("codebase_config")
    content = found[1] if found else {}
    codebase, config = content.get("codebase"), content.get("codebase_config")
    stated = {
        "task": codebase.get("task") if isinstance(codebase, dict) else None,
        "with_argmax": config.get("with_argmax") if isinstance(config, dict) else None,
    }
    detail = read_fields(_Detail, "task", found[0] if found else "", stated)
    return _Detail() if isinstance(detail, Refusal) else detail


def _alone(evidence: Evidence) -> Iterator[Finding]:
    """The task by detail.json or deploy.json."""
    task = _detail(evidence).task
    deploy = evidence.document("customs")
    if task is not None:
        yield from _task(f"detail.json: task {task}", TASKS.get(task))
    elif deploy and isinstance(deploy[1].get("models"), list) and isinstance(deploy[1].get("task"), str):
        yield from _task(f"{deploy[0]}: task {deploy[1]['task']}", CLASSES.get(deploy[1]["task"]))


def _task(source: str, task: str | None) -> Iterator[Finding]:
    if task is None:
        yield Refusal("task", f"{source}: models of that kind are not served yet")
    elif task != "classification":
        yield Fact("task", task, source)
    else:
        yield Note(f"{source}, of one class or of several, which only pipeline.json states")
