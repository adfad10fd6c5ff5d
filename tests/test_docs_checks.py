"""docs/checks.md lists every check, what it does and when."""

import re
from pathlib import Path

from tta_server.tasks.checks import CHECKS

PAGE = Path(__file__).parents[1] / "docs" / "checks.md"
ROW = re.compile(r"^\| `([a-z._]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \| (\w+) \|$", re.MULTILINE)


def test_the_page_lists_every_check_once_in_order_and_says_what_it_does() -> None:
    rows = ROW.findall(PAGE.read_text())
    assert [(check, about, does) for check, about, _, _, does in rows] == [
        (check, found.about, "refuses" if found.refuses else "warns") for check, found in CHECKS.items()
    ]
    assert {at for _, _, at, _, _ in rows} <= {"load", "serving", "load, serving"}
