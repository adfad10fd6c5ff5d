"""What a load test requests: a model, its images, a budget and K; and the bytes of the HTTP requests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image

HERE = Path(__file__).parent
MODELS = HERE.parent / "models"
DATA = HERE.parent.parent / "shared" / "data"

LOCAL_HEADERS = {"Host": "loadtest"}

MODES: dict[str, dict[str, str]] = {
    "adaptive": {},
    "fixed": {"stop": "all", "min_views": "all"},
}
"""By the CSV's `mode`: query parameters beyond budget, K and stop rule. Fixed: all K views or no answer."""


@dataclass(frozen=True, slots=True)
class Case:
    """`budget_ms`, `views` (K, at most that many) and `stop` are those of every request."""

    model: str
    images: tuple[Path, ...]
    budget_ms: float
    views: int
    stop: str = "all"

    def requests(
        self, mode: str, budget_ms: float | None = None, headers: Mapping[str, str] = LOCAL_HEADERS
    ) -> list[bytes]:
        """An HTTP request, head and body, for each image; `budget_ms` replaces the case's own."""
        budget = self.budget_ms if budget_ms is None else budget_ms
        query = {"budget_ms": f"{budget:g}", "max_views": str(self.views), "stop": self.stop} | MODES[mode]
        path = f"/v1/models/{self.model}/predict?{urlencode(query)}"
        return [_request(path, image.read_bytes(), headers) for image in self.images]


def _request(path: str, image: bytes, headers: Mapping[str, str]) -> bytes:
    fields = [f"{name}: {value}" for name, value in headers.items()]
    lines = (f"POST {path} HTTP/1.1", *fields, f"Content-Length: {len(image)}", "", "")
    return "\r\n".join(lines).encode() + image


def clothing_images(data: Path, models: Path) -> list[Path]:
    """Every fourth labelled test photo; the drawn sample where there are none."""
    photos = sorted((data / "clothing" / "test").glob("*/*.jpg"))
    return photos[::4] or [models / "clothing" / "sample.jpg"]


def nuclei_images(data: Path, models: Path) -> list[Path]:
    """The labelled images of 256x256 pixels, which all cost the same; the drawn sample where there are none."""
    found = sorted((data / "nuclei" / "images").glob("*.png"))
    return [path for path in found if _size(path) == (256, 256)] or [models / "nuclei" / "sample.png"]


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


IMAGES: dict[str, Callable[[Path, Path], list[Path]]] = {"clothing": clothing_images, "nuclei": nuclei_images}
"""By model: (data folder, models folder) -> the images to send."""

BUDGETS_MS = {"clothing": 100.0, "nuclei": 400.0}
"""By model: the default budget of a case."""
