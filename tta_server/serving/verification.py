"""Holds a model's tta.yaml against what the model gives for test images: refuses it, or warns."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from tta_server.backends import Outputs
from tta_server.errors import BackendFailed, ConfigError
from tta_server.repository.checks import input_findings, other_input_findings
from tta_server.repository.model import Model, Observed
from tta_server.serving.agreement import LOW_PRECISION, agree, are_equal
from tta_server.serving.cards import CardRunner
from tta_server.tasks.checks import CardRun, Finding
from tta_server.views.geometry import Size

ODD = Size(251, 217)
"""Size of the test image of odd size."""
MULTIPLES = (2, 4, 7, 8, 12, 14, 16, 28, 32, 64, 128, 224)
"""Of the input's sides that models may need: strides, and sides of patches."""
ALONE = ("photo", "noise", "grey", "black", "white")
DIM = "dim photo"


def verify(model: Model) -> Observed:
    """Runs the model on test images, at most 20 times; returns its warnings.

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
        yield from other_input_findings(self._model.backend.signature)
        runs = self._runs()
        self._check_shapes(runs[0])
        predictions = {run.card: self._decode(run) for run in runs}
        yield from self._unsound(predictions)
        yield from self._odd_size(runs)
        yield from self._model.task.findings(runs)
        yield from self._remarks(predictions)
        yield from self._repeats(runs)

    def _runs(self) -> list[CardRun]:
        try:
            return [self._runner.run(card) for card in ALONE]
        except BackendFailed as error:
            free = self._model.preprocessing.size is None
            advice = f"; {self._multiple(self._runner.views(ALONE[0]).input_size(0))}" if free else ""
            raise ConfigError(
                f"model {self._model.name}: its file can't run views of {self._runner.size}: {_reason(error)}{advice}"
            ) from error

    def _multiple(self, failed: Size) -> str:
        """Which input.multiple the model file accepts; one that the sides had on which it failed is no help."""
        if self._runner.accepts(failed):
            return (
                "an input of zeros of that size runs, so that no input.multiple helps: the file fails on what an image "
                "shows; export it again"
            )
        sides = (side for side in MULTIPLES if failed.width % side or failed.height % side)
        fits = next((side for side in sides if self._runner.accepts(_multiple_of(side))), None)
        return f"set input.multiple: {fits}" if fits else "set input.multiple, or a fixed input.size"

    def _check_shapes(self, run: CardRun) -> None:
        try:
            self._model.task.check(run.outputs, run.tensor)
        except ConfigError as error:
            raise ConfigError(f"model {self._model.name}: {error}") from None

    def _decode(self, run: CardRun) -> object:
        try:
            return self._runner.views(run.card).read(0, run.outputs, 0)
        except Exception as error:
            raise ConfigError(f"model {self._model.name}: its output can't be read: {_reason(error)}") from error

    def _unsound(self, predictions: Mapping[str, object]) -> Iterator[Finding]:
        """NaN and infinity."""
        bad = [card for card, prediction in predictions.items() if not self._model.task.is_sound(prediction)]
        if len(bad) == len(predictions):
            yield Finding(
                "outputs.finite",
                "the model gives NaN or infinity for every test image; was it converted to float16, or do input.scale, "
                "mean and std differ from its training?",
            )
        elif bad:
            yield Finding(
                "outputs.finite_always", f"the model gives NaN or infinity for the test image {', '.join(bad)}"
            )

    def _remarks(self, predictions: Mapping[str, object]) -> Iterator[Finding]:
        for prediction in predictions.values():
            if self._model.task.is_sound(prediction):
                yield from self._model.task.remarks(prediction)

    def _odd_size(self, runs: list[CardRun]) -> Iterator[Finding]:
        """An image whose sides no multiple divides, for a model of free size; its run is added to `runs`."""
        if self._model.preprocessing.size is not None or not self._model.is_checked("input.multiple"):
            return
        try:
            run = self._runner.run("photo", ODD)
        except Exception as error:  # noqa: BLE001 - whatever the model raises
            size = self._runner.views("photo", ODD).input_size(0)
            yield Finding(
                "input.multiple", f"the model fails on an input of {size} ({_reason(error)}); {self._multiple(size)}"
            )
            return
        try:
            self._runner.views("photo", ODD).read(0, run.outputs, 0)
        except Exception as error:  # noqa: BLE001 - whatever reading raises
            yield Finding(
                "input.multiple",
                f"the model's output for an input of {run.tensor} can't be read ({_reason(error)}); set "
                "input.multiple, or a fixed input.size",
            )
        else:
            runs.append(run)

    def _repeats(self, runs: Sequence[CardRun]) -> Iterator[Finding]:
        """The same image again, and two images together."""
        reads, (first, other) = self._model.task.reads, runs[:2]
        again = self._runner.run(first.card).outputs
        if are_equal(first.outputs, again, reads):
            if self._model.can_batch:
                yield from self._together(other)
            return
        more = [self._runner.run(first.card).outputs for _ in range(2)]
        if all(self._agree(*pair) for pair in ((first.outputs, again), (again, more[0]), (again, more[1]))):
            return
        if are_equal(more[0], more[1], reads):
            yield Finding(
                "outputs.stateless",
                "the model's output for an image depends on the images before it, so answers would depend on other "
                "clients; export it without state",
            )
        else:
            yield Finding(
                "outputs.repeatable",
                "the model gives another output each time for the same image; was it exported in training mode, with "
                "dropout?",
            )

    def _together(self, bright: CardRun) -> Iterator[Finding]:
        """A dim image beside a bright one: what depends on a batch's range shows in the first."""
        try:
            alone = [self._runner.run(DIM), bright]
            if self._model.has_low_precision:
                alone = [self._twice(run) for run in alone]
            together = self._runner.run_together(*(run.card for run in alone))
            parts = [self._part(together, index) for index in range(len(alone))]
            for run, part in zip(alone, parts, strict=True):
                self._runner.views(run.card).read(0, part, 0)
        except Exception as error:  # noqa: BLE001 - whatever the model raises, or reading a missing row
            yield self._one_by_one(
                "batch.rows",
                f"the model can't run two images as one batch ({_reason(error)}), though its file leaves the batch "
                "free",
            )
            return
        if not all(self._agree(self._part(run.outputs, 0), part) for run, part in zip(alone, parts, strict=True)):
            yield self._one_by_one(
                "batch.independent",
                "an image's output depends on the images that share its batch (batch normalisation in training mode, "
                "or dynamic quantisation)",
            )

    def _twice(self, run: CardRun) -> CardRun:
        """The first row of an image beside itself: as rounded as beside another one, which computes as many rows."""
        outputs = self._runner.run_together(run.card, run.card)
        return replace(run, outputs=self._part(outputs, 0))

    def _part(self, outputs: Outputs, index: int) -> Outputs:
        return self._model.task.part(outputs, index)

    def _agree(self, some: Outputs, others: Outputs) -> bool:
        reads = self._model.task.reads
        if self._model.task.is_joined and any(bool(some[name].size) != bool(others[name].size) for name in reads):
            return False  # all of an image's boxes are in another's part of the list
        rounding = LOW_PRECISION if self._model.has_low_precision else 0.0
        return agree(some, others, reads, rounding)

    def _one_by_one(self, check: str, sentence: str) -> Finding:
        self._can_batch = not self._model.is_checked(check)
        return Finding(check, f"{sentence}: it is run in batches of one, which costs throughput; export it again")


def _reason(error: BaseException) -> str:
    """What went wrong in a line, without ONNX Runtime's codes and the places in its source."""
    cause = error.__cause__ or error
    line = (str(cause) or type(cause).__name__).splitlines()[0]
    line = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", line)
    line = re.sub(r"Non-zero status code returned while running (\w+) node\. Name:'[^']*'", r"node \1 failed:", line)
    line = re.sub(r" Status Message: (?:/\S+ .*?\) (?=\S))?", " ", line)
    return line[:200].rstrip(" :.")


def _multiple_of(side: int) -> Size:
    """Sides near 200 that `side` divides and twice of it does not."""
    times = max(1, 200 // side) | 1
    return Size(side * times, side * (times + 2))
