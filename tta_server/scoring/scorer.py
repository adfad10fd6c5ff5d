"""Scoring from Python: an iterator of results, and a function for anybody's own map."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tta_server.errors import InvalidInput, shown
from tta_server.imaging.decoding import Limits
from tta_server.imaging.inputs import ImageLike, copy_image
from tta_server.repository.loader import load_model
from tta_server.scoring.batches import BatchScorer, InputImage, Scored
from tta_server.serving.options import as_query, read_options
from tta_server.serving.plan import Options, Plan, make_plan
from tta_server.serving.verification import verify
from tta_server.tasks import ResponseFormat

BATCH = 8
"""Rows of a batch where nothing else is said."""
OF_REQUESTS = ("budget_ms", "priority")
"""Options that mean nothing without a deadline."""
MASKS = ("png", "rle")
"""How masks are stored."""


def read_scoring_options(options: dict[str, Any]) -> Options:
    """Python values of the options of `predict`, and `masks`. Raises InvalidInput."""
    for name in OF_REQUESTS:
        if options.get(name) is not None:
            raise InvalidInput(f"{name} is for requests; scoring has no deadline")
    masks = options.get("masks") or MASKS[0]
    if masks not in MASKS:
        raise InvalidInput(f"masks takes {' or '.join(MASKS)}, not {shown(masks)}")
    others = {key: value for key, value in options.items() if key != "masks"}
    return replace(read_options(as_query(others)), format=ResponseFormat.ARRAYS, masks=masks)


def open_plan(folder: Path, options: Options) -> Plan:
    """The plan of a model that is loaded, and checked on test images. Raises ConfigError or InvalidInput."""
    model = load_model(folder)
    try:
        plan = make_plan(model, options)
        model.observe(verify(model))
    except BaseException:
        model.retire()
        raise
    return plan


class Scorer:
    """Scores lists of images with one model, which is loaded at the first call.

    It can be pickled, unloaded, so it is a function for the `map` of a process pool or of Ray. `options` are those of
    `LoadedModel.predict` but budget_ms, and `masks`: how JSON has masks, `png` or `rle` (COCO's).
    """

    def __init__(self, folder: str | os.PathLike[str], batch: int = BATCH, **options: Any) -> None:
        self._given = (Path(folder), batch, options)
        self._options = read_scoring_options(options)
        self._scorer: BatchScorer | None = None

    def __call__(self, images: Iterable[ImageLike]) -> Sequence[Scored]:
        """The outcome of each image, in order; a path is its own id, others have their number."""
        return list(self.scored(images))

    def scored(self, images: Iterable[ImageLike]) -> Iterator[Scored]:
        """The same, as they are scored."""
        limits = Limits()
        named = (InputImage(_id_of(image, n), partial(copy_image, image, limits)) for n, image in enumerate(images))
        return self._open().score(named)

    @property
    def plan(self) -> Plan:
        """The model, loaded, with these options."""
        return self._open().plan

    def _open(self) -> BatchScorer:
        if self._scorer is None:
            folder, batch, _ = self._given
            self._scorer = BatchScorer(open_plan(folder, self._options), batch, Limits())
        return self._scorer

    def close(self) -> None:
        """Unload the model; the next call loads it again."""
        scorer, self._scorer = self._scorer, None
        if scorer is not None:
            scorer.plan.model.retire()

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getstate__(self) -> Any:
        return self._given

    def __setstate__(self, given: Any) -> None:
        folder, batch, options = given
        self.__init__(folder, batch, **options)  # type: ignore[misc]


def score(
    images: Iterable[ImageLike], folder: str | os.PathLike[str], batch: int = BATCH, **options: Any
) -> Iterator[Scored]:
    """The outcome of each image, in order, as they are scored. See `Scorer`."""
    with Scorer(folder, batch, **options) as scorer:
        yield from scorer.scored(images)


def _id_of(image: ImageLike, number: int) -> str:
    return os.fspath(image) if isinstance(image, str | os.PathLike) else str(number)
