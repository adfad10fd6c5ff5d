"""Models in folders without a tta.yaml: their configuration is what `tta-server init` would conclude.

Triton's layout (config.pbtxt and 1/model.onnx), or a folder with one ONNX file and what lies beside it.
"""

import logging
import shlex
from pathlib import Path

from tta_server.errors import ConfigError
from tta_server.onboarding.conclusions import Given, conclude_measured
from tta_server.onboarding.documents import documents_beside
from tta_server.onboarding.draft import embeddable
from tta_server.onboarding.model_file import read_model_file
from tta_server.repository.config import ModelConfig, parse_config
from tta_server.repository.described import ENDING, FILE, MODEL, find_file, is_described
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model

log = logging.getLogger(__name__)


def load_folder(folder: Path, name: str) -> Model:
    """Load the model of any folder under a name; raise ConfigError and BackendUnavailable as `load_model` does.

    A file that nothing describes in full is refused with what is missing and the command that writes a tta.yaml.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is no folder; --model takes NAME=DIR, and DIR the folder of one model")
    config = None if is_described(folder) else _conclude_config(folder, name)
    return load_model(folder, name, config)


def _conclude_config(folder: Path, name: str) -> ModelConfig:
    found = find_file(folder, MODEL)
    if found is None:
        raise ConfigError(f"{folder}: {_without_file(folder, name)}")
    path = found[0]
    file = read_model_file(path)
    concluded = conclude_measured(file, Given(), documents_beside(path))
    if concluded.refusals:
        raise ConfigError(f"{path} can't be served: {'; '.join(concluded.refusals)}")
    if concluded.choices:
        missing = ", ".join(choice.key for choice in concluded.choices)
        raise ConfigError(
            f"{path}: nothing states {missing}; run `tta-server init {shlex.quote(str(path))} --name {name} --models "
            f"FOLDER` to write a model folder, fill in what it leaves open, and serve --model {name}=FOLDER/{name}"
        )
    for each in concluded.notes:
        log.warning("model %s: %s", name, each)
    return parse_config(embeddable(concluded).text, str(path), folder)


def _without_file(folder: Path, name: str) -> str:
    """Why the folder is not that of one model, and what is."""
    inner = sorted(path.name for path in folder.iterdir() if path.is_dir() and find_file(path, MODEL))
    if inner:
        return f"is no model's folder but holds those of {', '.join(inner)}; give --model {name}={folder}/{inner[0]}"
    count = len(list(folder.glob(f"*{ENDING}")))
    has = f"holds {count} ONNX files" if count else "holds no model file"
    return f"{has}; a model's folder has 1/{MODEL} or one ONNX file, and {FILE} unless the file is described otherwise"
