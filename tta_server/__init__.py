"""Test-time augmentation for vision models, as a server and as a library."""

from tta_server.answer import Answer, Receipt
from tta_server.errors import TTAError
from tta_server.library import LoadedModel, load

__version__ = "0.1.0"
__all__ = ["Answer", "LoadedModel", "Receipt", "TTAError", "__version__", "load"]
