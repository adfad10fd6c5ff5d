"""The page about images says what the decoder does."""

import pytest

from tests.support.tables import PAGE, TABLES, marked


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_the_page_is_what_the_decoder_answers(name):
    assert marked(name) in PAGE.read_text("utf-8"), "run: python -m tests.support.tables"
