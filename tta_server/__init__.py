"""Test-time augmentation for vision models, as a server and as a library."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tta_server.errors import TTAError
    from tta_server.loaded_model import LoadedModel, load
    from tta_server.scoring.batches import Scored
    from tta_server.scoring.scorer import Scorer, score
    from tta_server.serving.answer import Answer, Receipt

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "LoadedModel",
    "Receipt",
    "Scored",
    "Scorer",
    "TTAError",
    "__version__",
    "load",
    "score",
]

_MODULES = {
    "Answer": "serving.answer",
    "LoadedModel": "loaded_model",
    "Receipt": "serving.answer",
    "Scored": "scoring.batches",
    "Scorer": "scoring.scorer",
    "TTAError": "errors",
    "load": "loaded_model",
    "score": "scoring.scorer",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: `tta-server ping` and `--version` need none of them."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
