"""What paragraphs print for Zeppelin: tables whose cells stay cells, HTML, text."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delorean.display.zeppelin import show, to_directive


class AsHtml:
    def _repr_html_(self):
        return "<p>\n%table no</p>"


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=5))
def test_whatever_texts_a_table_holds_it_stays_that_table(rows):
    text = to_directive(pa.table({"a": [a for a, _ in rows], "b": [b for _, b in rows]}))
    directive, _, body = text.partition(" ")
    assert directive == "%table"
    lines = body.splitlines()
    assert lines[0] == "a\tb"
    cells = [line.split("\t") for line in lines[1:]]
    assert [len(row) for row in cells] == [2] * len(rows)
    assert not any(cell.startswith("%") for row in cells for cell in row)


def test_frames_of_all_kinds_are_tables_of_a_bounded_number_of_rows(spark, capsys):
    table = pa.table({"n": [1, 2, 3], "seen": [[{"film": 7}], [], None]})
    expected = '%table n\tseen\n1\t[{"film": 7}]\n2\t[]\n\n%text the first 2 rows'
    show(table, rows=2)
    assert capsys.readouterr().out == expected + "\n"
    import polars as pl

    for frame in (pl.DataFrame(table), table.to_batches()[0], table.to_pylist(), spark.createDataFrame(table)):
        assert to_directive(frame, rows=2) == expected
    assert to_directive(table.to_pandas()[["n"]]) == "%table n\n1\n2\n3"
    assert to_directive([]) == "%text []"


@pytest.mark.parametrize(
    ("thing", "expected"),
    [(AsHtml(), "%html <p>\n %table no</p>"), ("a\n%html b", "%text a\n %html b"), (3, "%text 3")],
)
def test_other_things_are_html_or_text_and_never_another_display(thing, expected):
    assert to_directive(thing) == expected
