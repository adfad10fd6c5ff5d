"""All contracts: a new export is one entry in one of these lists."""

from tests.contracts.classifiers import CLASSIFIERS
from tests.contracts.contract import Entry
from tests.contracts.detectors import DETECTORS
from tests.contracts.embeddings import EMBEDDINGS
from tests.contracts.masks import MASKS
from tests.contracts.packages import PACKAGES
from tests.contracts.points import POINTS
from tests.contracts.refused import REFUSED

CONTRACTS: list[Entry] = [*DETECTORS, *CLASSIFIERS, *MASKS, *POINTS, *EMBEDDINGS, *PACKAGES, *REFUSED]
