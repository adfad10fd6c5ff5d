"""A `.pt2` file, checked before any part of torch opens it.

`torch.export.load` runs code from a crafted file: pickled inputs, weights and constants, and names and expressions of
its program. So the file is read here, with zipfile and json, and torch gets a new archive, made of what was checked:
nothing in that is pickled. Limits: 100,000 records, none compressed, none twice, and a program of 64 MB.
"""

import io
import json
import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from tta_server.backends.torch.pickles import DAMAGED, needs_code
from tta_server.backends.torch.program import PATH, Program, on_device, read_program
from tta_server.errors import ConfigError, shown

EXPORT = (
    "torch.export.save(torch.export.export(model.eval(), (image,), "
    "dynamic_shapes=({0: torch.export.Dim('batch', min=1, max=1024)},)), 'model.pt2'), where image is a tensor of two "
    "images"
)
MOST_RECORDS = 100_000
LONGEST_NAME = 500
LARGEST_TEXT = 64 * 2**20
"""Bytes of the program, and of each list of weights."""
RECORD = re.compile(r"[A-Za-z0-9_.\-]+(/[A-Za-z0-9_.\-]+)*")
PROGRAM, INPUTS = "models/model.json", "data/sample_inputs/model.pt"
FORMAT = {
    "archive_format": b"pt2",
    "archive_version": b"0",
    ".data/version": b"6\n",
    "byteorder": b"little",
    INPUTS: b"",
}
"""The records of an archive that say how it is written; sample inputs are never loaded."""
WEIGHTS, CONSTANTS = "data/weights/", "data/constants/"
CONFIGS = {WEIGHTS: "model_weights_config.json", CONSTANTS: "model_constants_config.json"}
TENSORS = {WEIGHTS: re.compile(r"weight_[0-9]{1,9}"), CONSTANTS: re.compile(r"tensor_[0-9]{1,9}")}
LIBRARIES = re.compile(r".*\.(so|dll|dylib|pyd|cpp|cubin)(\.[0-9]+)*")


@dataclass(frozen=True, slots=True)
class Archive:
    """A program, and the archive for `torch.export.load` that holds it and its weights, and no more."""

    program: Program
    content: io.BytesIO


def read_archive(path: Path, device: str) -> Archive:
    """Read and check a file; its tensors are to be on `device`. Raises ConfigError that says what to do."""
    try:
        with path.open("rb") as file:
            return _Reader(file, path.stat().st_size).read(device)
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
    except DAMAGED as error:
        raise ConfigError(f"{path}: is damaged, or no archive of torch.export.save: {error}") from error
    except ConfigError as mistake:
        raise ConfigError(f"{path}: {mistake}") from mistake.__cause__


class _Reader:
    """The records of a file, by their name without the root folder."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        if (start := file.read(2)) != b"PK":
            _refuse(PICKLE if start[:1] == b"\x80" else f"it is no archive of torch.export.save; {AGAIN}")
        self._zip = zipfile.ZipFile(file)
        infos = self._zip.infolist()
        root = infos[0].filename.split("/")[0] if infos else ""
        self._records = {info.filename.removeprefix(f"{root}/"): info for info in infos}
        self._check_kind()
        if len(infos) > MOST_RECORDS or len(self._records) < len(infos):
            _refuse(f"it has {len(infos)} records, or one twice; {FRESH}")
        for name, info in self._records.items():
            if not info.filename.startswith(f"{root}/") or not RECORD.fullmatch(name) or len(name) > LONGEST_NAME:
                _refuse(f"it has a record {shown(info.filename)}; {FRESH}")
            if ".." in name.split("/") or info.compress_type != zipfile.ZIP_STORED:
                _refuse(f"its record {shown(name)} is compressed or outside of the archive; {FRESH}")
        if sum(info.file_size for info in infos) > size:
            _refuse(f"its records overlap; {FRESH}")

    def read(self, device: str) -> Archive:
        """Check all records, and write those that a run needs into a new archive."""
        self._check_content()
        program = read_program(self._text(PROGRAM), device)
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as target:
            target.writestr(f"model/{PROGRAM}", program.content)
            for name, text in FORMAT.items():
                target.writestr(f"model/{name}", text)
            for folder in CONFIGS:
                self._copy_tensors(folder, device, target)
        made.seek(0)
        return Archive(program, made)

    def _check_kind(self) -> None:
        records = self._records
        if any(name.startswith("code/") for name in records) or "constants.pkl" in records:
            _refuse(TORCHSCRIPT)
        if "data.pkl" in records:
            _refuse(PICKLE)
        if any(name.startswith("data/aotinductor/") or LIBRARIES.fullmatch(name) for name in records):
            _refuse(
                f"it is a package of AOTInductor, which holds a compiled library; export the model itself: {EXPORT}"
            )
        if "serialized_exported_program.json" in records:
            _refuse(f"it was saved by torch 2.7 or older, with pickled weights; export it with 2.11 or newer: {EXPORT}")

    def _check_content(self) -> None:
        records = self._records
        if "archive_format" not in records or self._text("archive_format") != b"pt2":
            _refuse(f"it is no archive of torch.export.save; {FRESH}")
        programs = [name for name in records if name.startswith("models/")]
        if programs != [PROGRAM]:
            _refuse(f"it has the programs {shown(programs)}; it must have one, {PROGRAM}; {FRESH}")
        if self._text("archive_version").strip() != FORMAT["archive_version"]:
            _refuse("its version of the format is not 0; save it with a version of torch that this server runs with")
        if "byteorder" in records and self._text("byteorder") != b"little":
            _refuse("it was written on a machine with another byte order; export it on this kind of machine")
        if INPUTS in self._records and needs_code(self._text(INPUTS)):
            _refuse(f"its sample inputs are pickled objects, which run code when they are loaded; {FRESH}")

    def _copy_tensors(self, folder: str, device: str, target: zipfile.ZipFile) -> None:
        """Copy weights or constants; `device` is where torch puts them."""
        if f"{folder}model.pt" in self._records:
            _refuse(f"its weights are pickled, as by torch 2.8 or older; export it with 2.11 or newer: {EXPORT}")
        config = _parse(self._text(folder + CONFIGS[folder]))
        copied = set()
        for name, meta in config["config"].items():
            record = folder + meta["path_name"]
            _check_tensor(name, meta, folder, self._info(record).file_size)
            if record not in copied:
                copied.add(record)
                with target.open(f"model/{record}", "w", force_zip64=True) as to:
                    to.write(self._zip.read(self._info(record)))
        target.writestr(f"model/{folder}{CONFIGS[folder]}", json.dumps(on_device(config, device)))

    def _info(self, name: str) -> zipfile.ZipInfo:
        if name not in self._records:
            _refuse(f"it lacks the record {shown(name)}; {FRESH}")
        return self._records[name]

    def _text(self, name: str) -> bytes:
        info = self._info(name)
        if info.file_size > LARGEST_TEXT and name != INPUTS:
            _refuse(f"its record {name} has {info.file_size} bytes; allowed are {LARGEST_TEXT}")
        return self._zip.read(info)


def _parse(text: bytes) -> dict[str, Any]:
    """A list of weights: {"config": {name: its record, type and shape}}."""
    try:
        entries = json.loads(text)["config"]
        valid = all(isinstance(meta["path_name"], str) for meta in entries.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        valid = False
    if not valid:
        _refuse(f"its list of weights is not as torch.export.save writes it; {FRESH}")
    return {"config": entries}


def _check_tensor(name: str, meta: dict[str, Any], folder: str, size: int) -> None:
    if meta["path_name"].startswith(("custom_obj_", "opaque_obj_")):
        _refuse(
            f"its constant {shown(name)} is a custom object, which may run code when it is loaded; make it a tensor"
        )
    if meta.get("use_pickle") is not False:
        _refuse(f"its weight {shown(name)} is pickled (a subclass of torch.Tensor); make it a plain tensor and {AGAIN}")
    if not PATH.fullmatch(name) or not TENSORS[folder].fullmatch(meta["path_name"]):
        _refuse(f"it has a weight {shown(name)} in {shown(meta['path_name'])}; {FRESH}")
    try:
        sizes = [int(axis["as_int"]) for axis in meta["tensor_meta"]["sizes"]]
    except (KeyError, TypeError, ValueError):
        _refuse(f"its weight {shown(name)} has no fixed size; {FRESH}")
    if size == 0 and math.prod(sizes) != 0:
        _refuse(f"its weight {shown(name)} has no content; export the model with real weights, not fake ones")


AGAIN = f"export the model again: {EXPORT}"
FRESH = f"if it is yours, {AGAIN}"
TORCHSCRIPT = (
    f"is TorchScript, which PyTorch has given up; export the model from its Python class: {EXPORT}; without the class, "
    "from torch._export.converter import TS2EPConverter; torch.export.save("
    "TS2EPConverter(torch.jit.load('model.pt'), (image,)).convert(), 'model.pt2')"
)
PICKLE = (
    "holds pickled Python objects (torch.save), which run code when they are loaded; where you trust it, load it into "
    f"the model and export that: model.load_state_dict(torch.load('model.pt', weights_only=True)); {EXPORT}"
)


def _refuse(sentence: str) -> NoReturn:
    raise ConfigError(sentence)
