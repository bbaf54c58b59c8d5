"""Which runs a FILTER of `clipbench rm` means: "seed>2", "task=cola,voc", "clipping_level=null"."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from clipbench.errors import UserError, nearest
from clipbench.record import tables

COLUMNS = tables.SCHEMAS["runs"]
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Filter:
    """A column, a sign and values. A value is None where the word says null."""

    word: str
    column: str
    sign: str
    values: tuple[Any, ...]

    def holds(self, row: Mapping[str, Any]) -> bool:
        """A column that is not known of an unfinished run holds nothing, != included."""
        if self.column not in row:
            return False
        found = None if pd.isna(row[self.column]) else row[self.column]
        if self.sign == "=":
            return found in self.values
        if self.sign == "!=":
            return found not in self.values
        return found is not None and COMPARE[self.sign](found, self.values[0])

    @property
    def named_statuses(self) -> tuple[Any, ...]:
        """What `status=…` names."""
        return self.values if self.column == "status" and self.sign == "=" else ()


def read_filter(word: str, ids: Iterable[str] = ()) -> Filter:
    """The filter that `word` writes. UserError for an unknown column, or a value that its type does not have;
    the nearest of the runs' `ids` is offered for what is no filter at all.
    """
    found = re.fullmatch(r"([\w.]+)(!=|<=|>=|=|<|>)(.+)", word)
    if not found:
        close = nearest(word, ids)
        raise UserError(
            f"'{word}' is neither the id of a run there nor KEY=VALUE.{close} In a shell < and > need "
            "quotes: 'seed>2'."
        )
    column, sign, text = found.groups()
    if column not in COLUMNS.names:
        close = nearest(column, COLUMNS.names)
        raise UserError(f"Unknown column '{column}'.{close} Known: {', '.join(COLUMNS.names)}.")
    values = tuple(_value(word, column, part) for part in text.split(","))
    if sign in COMPARE and (len(values) > 1 or values[0] is None):
        raise UserError(f"'{word}': {sign} takes one value.")
    return Filter(word, column, sign, values)


def _value(word: str, column: str, text: str) -> Any:
    kind = COLUMNS.field(column).type
    if text == "null":
        return None
    if pa.types.is_string(kind):
        return text
    if pa.types.is_boolean(kind):
        if text not in ("true", "false"):
            raise UserError(f"'{word}': {column} is true or false, got '{text}'.")
        return text == "true"
    try:
        return float(text)
    except ValueError:
        raise UserError(f"'{word}': {column} is a number (inf and null are allowed), got '{text}'.") from None
