"""From evidence to values of tta.yaml: the strongest source of a key counts, and what it overrules is noted."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from tta_server.errors import ConfigError, shown
from tta_server.onboarding.choices import Choice, Values, find_choices
from tta_server.onboarding.derived import derived
from tta_server.onboarding.evidence import Document, Evidence, Fact, Finding, Note, Reads, Refusal
from tta_server.onboarding.measured.heads import measure_head
from tta_server.onboarding.measured.kinds import measure_kind
from tta_server.onboarding.model_file import ModelFile
from tta_server.onboarding.readers import READERS
from tta_server.repository.described import KEY
from tta_server.tasks.boxes.heads import HEADS

DEFAULTS = {"input.resize_like": "pillow", "input.interpolation": "bilinear"}
"""How pixels are resized, as most models were trained."""
LETTERBOX = {"input.letterbox_anchor": "center", "input.rounding": "round"}
"""What a letterbox is that the user states; those of other sources are known."""
ASSUMED, ASSUMES = "assumed: nothing states it", "nothing states "
"""Source of these facts, and how the note of them begins."""
MEASURED = "measured"
"""How sources of what test tensors show begin."""
FLAG = "stated on the command line"
"""Source of facts that the user states."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the user gives besides the model file: values, files that describe it, and a file of labels."""

    values: Sequence[Fact] = ()
    documents: Sequence[Document] = ()
    labels: Sequence[Document] = ()


@dataclass(slots=True)
class Conclusion:
    """Facts by key, what is open, and why the model can't be served right; sentences for the user as notes."""

    facts: dict[str, Fact] = field(default_factory=dict)
    choices: list[Choice] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def take(self, finding: Finding) -> None:
        """Add what a reader found, unless something stronger has stated the same key."""
        match finding:
            case Note():
                self.notes.append(finding.sentence)
            case Refusal():
                if finding.key not in self.facts:
                    self.refusals.append(finding.sentence)
            case Fact():
                stronger = self.facts.setdefault(finding.key, finding)
                if stronger.value != finding.value and stronger.source != FLAG:
                    self.notes.append(
                        f"{finding.key} is {shown(stronger.value)} ({stronger.source}), though it would be "
                        f"{shown(finding.value)} by another source ({finding.source})"
                    )

    @property
    def values(self) -> Values:
        """Values by key."""
        return {key: fact.value for key, fact in self.facts.items()}

    def extend(self, findings: Iterable[Finding], file: ModelFile) -> None:
        """Take findings that are weaker than all before, and find again what is open."""
        self._forget_assumed()
        for finding in findings:
            self.take(finding)
        if file.inputs[0].type == "tensor(uint8)":
            _drop_normalization(self)
        if KEY not in file.metadata:
            self.facts |= {fact.key: fact for fact in derived(self.facts, file)}
            _assume_resize(self)
            _assume_nms(self)
            self.choices = list(find_choices(self.values, file))

    def _forget_assumed(self) -> None:
        """What was assumed is weaker than anything that is found later."""
        self.facts = {key: fact for key, fact in self.facts.items() if fact.source != ASSUMED}
        self.notes = [note for note in self.notes if not note.startswith(ASSUMES)]


def conclude(file: ModelFile, given: Given, beside: Sequence[Document]) -> Conclusion:
    """Read all evidence, the strongest first."""
    found = Conclusion()
    if file.refusal and not {"input.name", "input.others"} & {fact.key for fact in given.values}:
        found.refusals.append(file.refusal)
    found.notes.extend(f"{each.problem}; it is ignored" for each in beside if each.problem)
    for finding in _findings(file, given, beside):
        found.take(finding)
    if found.refusals:
        return found
    found.extend((), file)
    return found


def conclude_measured(file: ModelFile, given: Given, beside: Sequence[Document]) -> Conclusion:
    """As `conclude`, with what test tensors show where nothing states it."""
    found = conclude(file, given, beside)
    if not found.refusals and KEY not in file.metadata:
        for measure in (measure_head, measure_kind):
            found.extend(measure(file, found.values), file)
    return found


def _findings(file: ModelFile, given: Given, beside: Sequence[Document]) -> Iterator[Finding]:
    plain = Evidence(file)
    yield from given.values
    yield from _described(replace(plain, documents=given.labels))
    yield from _described(replace(plain, documents=given.documents))
    yield from _read(Reads.METADATA, plain)
    yield from _read(Reads.DOCUMENTS, replace(plain, documents=beside))
    yield from _read(Reads.SHAPES, plain)


def _described(evidence: Evidence) -> Iterator[Finding]:
    """What the user's files say; those of a folder of which no reader knows anything are noted.

    Raises ConfigError if none is known.
    """
    strange = [
        document
        for document in evidence.documents
        if not any(_read(Reads.DOCUMENTS, replace(evidence, documents=[document])))
    ]
    if strange and len(strange) == len(evidence.documents):
        known = ", ".join(reader.name for reader in READERS if reader.reads is Reads.DOCUMENTS)
        names = ", ".join(document.name for document in strange)
        raise ConfigError(
            f"{names}: nothing in {'this file' if len(strange) == 1 else 'them'} is known; known are {known}"
        )
    yield from (Note(f"{document.name}: nothing in this file is known; it is ignored") for document in strange)
    yield from _read(Reads.DOCUMENTS, evidence)


def _read(reads: Reads, evidence: Evidence) -> Iterator[Finding]:
    for reader in READERS:
        if reader.reads is reads:
            yield from reader.read(evidence)


def _drop_normalization(found: Conclusion) -> None:
    dropped = [key for key in ("input.scale", "input.mean", "input.std") if found.facts.pop(key, None)]
    if dropped:
        found.notes.append(f"the model file takes uint8, which is not normalised: {', '.join(dropped)} are left out")


def _assume_resize(found: Conclusion) -> None:
    """tta.yaml's defaults where nothing states how pixels are resized."""
    resize = found.facts.get("input.resize")
    if resize is None or resize.value == "none":
        return
    is_stated_box = resize.value == "letterbox" and resize.source == FLAG
    defaults = DEFAULTS | (LETTERBOX if is_stated_box else {})
    missing = {key: value for key, value in defaults.items() if key not in found.facts}
    for key, value in missing.items():
        found.facts[key] = Fact(key, value, ASSUMED)
    if missing:
        found.notes.append(f"{ASSUMES}{', '.join(missing)}; assumed: {', '.join(missing.values())}")


def _assume_nms(found: Conclusion) -> None:
    """YOLOv5's own where a head of its form is not from its metadata: other detectors have that form, too."""
    head = found.facts.get("output.head")
    if head is None or head.value != "yolov5" or "output.nms" in found.facts:
        return
    if head.source == FLAG or head.source.startswith(MEASURED):
        nms = HEADS["yolov5"].usual["nms"]
        found.facts["output.nms"] = Fact("output.nms", nms, ASSUMED)
        found.notes.append(
            f"{ASSUMES}output.nms; assumed: {nms}, YOLOv5's own; for a decoded YOLOX set {HEADS['yolox'].usual['nms']}"
        )
