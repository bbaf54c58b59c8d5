"""results/README.md says of every column what record/rows.py says."""

import re
from pathlib import Path

import pytest

from clipbench.record.rows import TABLES, columns

PAGE = Path(__file__).parents[2] / "results" / "README.md"


def markdown(table):
    """A line for each column, as it should stand on the page."""
    lines = ["| column | what |", "|---|---|"]
    for column in columns(table):
        lines.append(f"| {column.name} | {column.what} |")
    return "\n".join(lines)


@pytest.mark.parametrize("table", TABLES)
def test_the_table_of_columns_is_the_definition(table):
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {table}: ")[1].split("\n## ")[0]
    (found,) = re.findall(r"^\|.*?\|$(?=\n\n|\n?\Z)", section, re.MULTILINE | re.DOTALL)
    expected = markdown(table)
    where = f"The table under '## {table}:' in results/README.md is not what clipbench/record/rows.py says."
    assert found == expected, f"{where} Put this in its place:\n\n{expected}\n"


def test_every_table_has_its_section():
    titles = re.findall(r"^## (\w+): ", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(titles) == sorted(TABLES)
