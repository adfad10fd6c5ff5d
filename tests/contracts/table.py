"""All contracts: a new export is one entry in one of these lists."""

from tests.contracts.classifiers import CLASSIFIERS
from tests.contracts.contract import Entry
from tests.contracts.detectors import DETECTORS

CONTRACTS: list[Entry] = [*DETECTORS, *CLASSIFIERS]
