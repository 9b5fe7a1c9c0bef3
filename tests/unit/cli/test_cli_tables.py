import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.cli.tables import facts, printable, table


def test_columns_are_aligned_and_lines_end_where_their_text_does():
    shown = table(("A", "LONG"), [("wide cell", "x"), ("y", "")])
    assert shown == "A          LONG\nwide cell  x\ny"


def test_table_without_rows_is_its_heading():
    assert table(("A", "B"), []) == "A  B"


def test_row_with_a_cell_too_many_is_a_mistake_of_ours():
    with pytest.raises(ValueError, match="argument"):
        table(("A",), [("x", "y")])


def test_facts_are_aligned():
    assert facts([("a", "1"), ("long", "2"), ("none", "")]) == "a:     1\nlong:  2\nnone:"


@pytest.mark.slow
@given(st.text())
def test_no_text_moves_the_terminals_cursor(text):
    shown = printable(text)
    assert len(shown) == len(text)
    assert shown.isprintable()


@pytest.mark.slow
@given(st.lists(st.tuples(st.text(), st.text()), max_size=5))
def test_every_row_is_one_line(rows):
    assert table(("A", "B"), rows).count("\n") == len(rows)
