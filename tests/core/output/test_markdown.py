from wsikd.core.output.markdown import table_lines


def test_a_table():
    assert table_lines(["", "a", "b"], [("x", "1", "2"), ("y", "-", "")], right=(1, 2)) == [
        "| | a | b |", "|---|---:|---:|", "| x | 1 | 2 |", "| y | - | |",
    ]  # fmt: skip
    assert table_lines(("a", "b"), []) == ["| a | b |", "|---|---|"]
