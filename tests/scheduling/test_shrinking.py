"""A history that violates a law is made smaller and violates the same one, also written down and read again."""

import math
from types import ModuleType
from typing import Any

import pytest

from tests.support import device_histories, histories
from tests.support.devices import Machine
from tests.support.shrinking import shrink
from tests.support.simulator import Faults
from tta_server.scheduling.admission import Admission
from tta_server.scheduling.devices.admission import DeviceAdmission
from tta_server.scheduling.jobs import Bounds, Priority


@pytest.mark.parametrize("home", [histories, device_histories], ids=["cpu", "device"])
def test_a_history_is_made_smaller(home: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for admission in (Admission, DeviceAdmission):
        monkeypatch.setattr(admission, "_wait", lambda admission, job, now: 0.0)
    found = home.find_violation("0", range(100))
    assert found is not None
    number, broken = found
    small = shrink(home.drawn("0", number), home.violation_of, 500)
    again: Any = home.violation_of(small)
    assert again.law is broken.law
    assert 2 <= len(small.arrivals) <= 4, "too much is admitted: one job alone is not late"
    names = {"math": math, "Priority": Priority, "Bounds": Bounds, "Machine": Machine, "Faults": Faults}
    assert eval(repr(small), vars(home) | vars(histories) | names) == small
