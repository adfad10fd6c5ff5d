"""Holds a model's tta.yaml against what the model gives for test images: refuses it, or warns."""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from tta_server.errors import BackendFailed, ConfigError
from tta_server.repository.checks import input_findings
from tta_server.repository.model import Model, Observed
from tta_server.serving.cards import CARDS, CardRunner
from tta_server.serving.image import ImageViews
from tta_server.tasks.checks import CardRun, Finding
from tta_server.tasks.shapes import Outputs
from tta_server.views.geometry import Size

ODD = Size(251, 217)
"""Size of the test image of odd size."""
MULTIPLES = (2, 4, 8, 16, 32, 64)
TOLERANCE = {2: 2e-2, 4: 1e-3, 8: 1e-6}
"""Largest difference of outputs that counts as rounding, of their largest value, by the bytes of a number."""


def verify(model: Model) -> Observed:
    """Runs the model on about ten test images; returns its warnings.

    Raises ConfigError with the sentence of the first check that refuses, or if the model can't run at all.
    """
    return _Verification(model).observed()


class _Verification:
    def __init__(self, model: Model) -> None:
        self._model = model
        self._runner = CardRunner(model)
        self._can_batch = True

    def observed(self) -> Observed:
        warnings: dict[str, Finding] = {}
        for finding in self._findings():
            if not self._model.is_checked(finding.check):
                continue
            if finding.refuses:
                raise ConfigError(
                    f"model {self._model.name}: {finding.sentence} (check {finding.check}; if tta.yaml is right, "
                    f"`checks: {{{finding.check}: off}}` lets it through)"
                )
            warnings.setdefault(finding.check, finding)
        return Observed(tuple(warnings.values()), self._can_batch)

    def _findings(self) -> Iterator[Finding]:
        yield from input_findings(self._model.config.input, self._model.backend.signature)
        runs = self._runs()
        self._check_shapes(runs[0])
        yield from self._unsound(runs)
        cards = tuple(runs)
        if self._model.preprocessing.size is None:
            yield from self._odd_size(runs)
        yield from self._model.task.findings(runs)
        yield from self._remarks(cards)
        yield from self._repeats(runs)

    def _runs(self) -> list[CardRun]:
        try:
            return [self._runner.run(card) for card in CARDS]
        except BackendFailed as error:
            raise ConfigError(
                f"model {self._model.name}: its file can't run views of {self._runner.size}: {_reason(error)}"
            ) from error

    def _check_shapes(self, run: CardRun) -> None:
        try:
            self._model.task.check(run.outputs, run.tensor)
        except ConfigError as error:
            raise ConfigError(f"model {self._model.name}: {error}") from None

    def _decoded(self, run: CardRun) -> object:
        try:
            return self._runner.views(run.card).read(0, run.outputs, 0)
        except Exception as error:
            raise ConfigError(f"model {self._model.name}: its output can't be read: {_reason(error)}") from error

    def _unsound(self, runs: list[CardRun]) -> Iterator[Finding]:
        """NaN and infinity."""
        bad = [run.card for run in runs if not self._model.task.is_sound(self._decoded(run))]
        if len(bad) == len(runs):
            yield Finding(
                "outputs.finite",
                "the model gives NaN or infinity for every test image; was it converted to float16, or do input.scale, "
                "mean and std differ from its training?",
            )
        elif bad:
            yield Finding(
                "outputs.finite_always", f"the model gives NaN or infinity for the test image {', '.join(bad)}"
            )

    def _remarks(self, runs: Sequence[CardRun]) -> Iterator[Finding]:
        for run in runs:
            prediction = self._decoded(run)
            if self._model.task.is_sound(prediction):
                yield from self._model.task.remarks(prediction)

    def _odd_size(self, runs: list[CardRun]) -> Iterator[Finding]:
        """An image whose sides no multiple divides; its run is added to `runs`."""
        try:
            run = self._runner.run("photo", ODD)
            self._runner.views("photo", ODD).read(0, run.outputs, 0)
        except Exception as error:  # noqa: BLE001 - whatever the model raises
            fits = next((m for m in MULTIPLES if self._runner.accepts(_multiple_of(m))), None)
            advice = f"set input.multiple: {fits}" if fits else "set input.multiple, or a fixed input.size"
            yield Finding("input.multiple", f"the model fails on an input of {ODD} ({_reason(error)}); {advice}")
        else:
            runs.append(run)

    def _repeats(self, runs: list[CardRun]) -> Iterator[Finding]:
        """The same image again, and two images together."""
        first, other = runs[:2]
        if not _agree(first.outputs, self._runner.run(first.card).outputs):
            again = self._runner.run(first.card).outputs
            if _agree(again, self._runner.run(first.card).outputs):
                yield self._stateful()
            else:
                yield Finding(
                    "outputs.repeatable",
                    "the model gives another output each time for the same image; was it exported in training mode, "
                    "with dropout?",
                )
        elif self._model.can_batch:
            yield from self._together(first, other)

    def _stateful(self) -> Finding:
        return Finding(
            "outputs.stateless",
            "the model's output for an image depends on the images before it, so answers would depend on other clients",
        )

    def _together(self, first: CardRun, other: CardRun) -> Iterator[Finding]:
        alone = (first, other)
        try:
            together = self._runner.run_together(first.card, other.card)
            for row, run in enumerate(alone):
                views: ImageViews = self._runner.views(run.card)
                views.read(0, together, row)
        except Exception as error:  # noqa: BLE001 - whatever the model raises, or reading a missing row
            yield self._one_by_one(
                "batch.rows",
                f"the model can't run two images as one batch ({_reason(error)}), though its file leaves the batch "
                "free",
            )
            return
        if not all(_agree(run.outputs, _row(together, row)) for row, run in enumerate(alone)):
            yield self._one_by_one(
                "batch.independent",
                "an image's output depends on the images that share its batch (batch normalisation in training mode, "
                "or dynamic quantisation)",
            )

    def _one_by_one(self, check: str, sentence: str) -> Finding:
        self._can_batch = not self._model.is_checked(check)
        return Finding(check, f"{sentence}: it is run in batches of one, which costs throughput; export it again")


def _reason(error: BaseException) -> str:
    """First line of what went wrong, without ONNX Runtime's codes and places in its source."""
    cause = error.__cause__ or error
    line = (str(cause) or type(cause).__name__).splitlines()[0]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : | *(Name:''|Status Message:).*", "", line)[:200]


def _multiple_of(side: int) -> Size:
    """Sides near 100 that `side` divides and twice of it does not."""
    times = max(1, 96 // side) | 1
    return Size(side * times, side * (times + 2))


def _row(outputs: Outputs, row: int) -> Outputs:
    return {name: values[row : row + 1] for name, values in outputs.items()}


def _agree(some: Outputs, others: Outputs) -> bool:
    """Whether outputs are the same but for rounding, and for the order of rows that rounding may change."""
    return all(_same(values, others[name]) for name, values in some.items() if values.shape == others[name].shape)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    if not np.issubdtype(one.dtype, np.floating):
        return bool(np.issubdtype(one.dtype, np.integer) or np.array_equal(one, other))
    a, b = (np.sort(np.nan_to_num(values[0].astype(np.float64)), axis=0) if values.ndim > 1 else values
            for values in (one, other))  # fmt: skip
    largest = max(float(np.abs(a).max(initial=0)), 1e-6)
    return bool(np.abs(a - b).max(initial=0) <= TOLERANCE.get(one.dtype.itemsize, 1e-3) * largest)
