"""Every export of the table: `init`, load, predict; the exact answer, plain and with flips, or the refusal."""

from pathlib import Path

import pytest

from tests.contracts.contract import Entry
from tests.contracts.table import CONTRACTS


@pytest.mark.parametrize("contract", CONTRACTS, ids=[each.name for each in CONTRACTS])
def test_a_contract(contract: Entry, tmp_path: Path) -> None:
    contract.check(tmp_path)


def test_every_contract_has_a_name_of_its_own() -> None:
    assert len({each.name for each in CONTRACTS}) == len(CONTRACTS)
