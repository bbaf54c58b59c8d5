"""What is shown of a run that has ended."""

from madeup import write, write_child

from clipbench.cli.result import outcome, show_summary
from clipbench.record import tables


def test_a_changed_model_is_told_by_its_parent_and_has_a_line_of_its_own(tmp_path, capsys):
    parent = write(tmp_path, "none", 0, 0.5)
    child = write_child(tmp_path, parent, 0.49, name="round", bits=8)
    row = tables.row_of(tmp_path, child)
    assert outcome(row) == f"accuracy 0.490 on test, done, of the weights of {parent}"
    show_summary(tmp_path, [parent, child])
    _, first, second, _ = capsys.readouterr().out.splitlines()
    assert "none · round" not in first
    assert "none · round bits=8" in second
