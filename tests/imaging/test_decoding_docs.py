"""docs/images.md agrees with the decoder."""

import pytest

from tests.support.tables import PAGE, TABLES, marked


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_the_page_agrees_with_the_decoder(name):
    assert marked(name) in PAGE.read_text("utf-8"), "run: python -m tests.support.tables"
