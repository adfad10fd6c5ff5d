"""Arguments of `init` and `inspect`: a model file, and what describes it."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer
import yaml

from tta_server.errors import InvalidInput, shown
from tta_server.errors.validation import explain_yaml
from tta_server.onboarding.conclusions import FLAG, Conclusion, Given, conclude_measured
from tta_server.onboarding.documents import documents_beside, documents_in, read_labels
from tta_server.onboarding.draft import SECTIONS
from tta_server.onboarding.evidence import Fact
from tta_server.onboarding.model_file import ModelFile
from tta_server.repository.config import all_keys

ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An ONNX file.")]
FromOption = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="FILE|DIR|torchvision:WEIGHTS",
        help="What describes the model: a file of Hugging Face, timm, mmdeploy, Roboflow or Triton, a folder with "
        "them, or weights like torchvision:ResNet50_Weights.DEFAULT, if torchvision is installed. It counts more than "
        "the file's metadata and what lies beside it.",
    ),
]
LabelsOption = Annotated[
    Path | None,
    typer.Option("--labels", metavar="FILE", help="A text file with one name a line, in the model's order."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A key of tta.yaml and its value as in YAML, like input.color=BGR; may be repeated. It counts more than "
        "anything else.",
    ),
]


def concluded(file: ModelFile, source: Path | None, labels: Path | None, stated: Sequence[str] | None) -> Conclusion:
    """What all evidence says, and what test tensors show.

    Raises InvalidInput and ConfigError for arguments that can't be read.
    """
    values = {fact.key: fact for fact in map(_fact, stated or ())}  # the last counts
    given = Given(
        list(values.values()),
        documents_in(source) if source else (),
        [read_labels(labels)] if labels else (),
    )
    return conclude_measured(file, given, documents_beside(file.path))


def _fact(text: str) -> Fact:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InvalidInput(f"--set takes KEY=VALUE, like input.color=BGR, not {shown(text)}")
    if key.strip() in SECTIONS:
        raise InvalidInput(f"--set {key}: state its keys one by one, like input.color=BGR")
    _check_key(key.strip())
    try:
        return Fact(key.strip(), yaml.safe_load(value), FLAG)
    except yaml.YAMLError as error:
        raise InvalidInput(f"--set {key}: the value {explain_yaml(error)}") from None


def _check_key(key: str) -> None:
    """Raise InvalidInput for what is no key of tta.yaml, with those that may be meant."""
    known = all_keys()
    if key in known:
        return
    whole, _, part = key.partition(".")
    if part and whole in known:
        raise InvalidInput(f"--set {key}: state all of {whole} at once, like --set '{whole}={{{part}: VALUE}}'")
    near = [each for each in known if each.endswith(f".{key}")] or get_close_matches(key, known, 3)
    hint = f"; close to it: {', '.join(near)}" if near else ""
    raise InvalidInput(f"--set {key}: tta.yaml has no such key{hint}; docs/models.md lists all keys")
