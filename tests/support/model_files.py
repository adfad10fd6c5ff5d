"""What an ONNX file states, without a file; and what is concluded from it."""

from pathlib import Path
from typing import Any

from tta_server.onboarding.conclusions import Conclusion
from tta_server.onboarding.model_file import ModelFile, TensorInfo

FLOAT = "tensor(float)"
LOGITS = TensorInfo("logits", FLOAT, (1, 3))


def model_file(*outputs: TensorInfo, shape=(1, 3, 8, 8), kind=FLOAT, **metadata: str) -> ModelFile:
    return ModelFile(Path("m.onnx"), [TensorInfo("image", kind, shape)], outputs or (LOGITS,), metadata)


def values(found: Conclusion, section: str = "") -> dict[str, Any]:
    """The concluded values by key, of a section without its name."""
    facts = found.facts.items()
    return {key.removeprefix(section): fact.value for key, fact in facts if key.startswith(section)}
