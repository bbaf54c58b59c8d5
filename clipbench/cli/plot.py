"""`clipbench plot` and `clipbench table`: a results folder's report, and its tables for a paper."""

from __future__ import annotations

from argparse import Namespace

from clipbench.cli.messages import DONE


def plot(options: Namespace) -> int:
    from clipbench.report.draw import draw, in_inches

    out = options.out or options.results / "figures"
    width = in_inches(options.width)
    for path in draw(options.results, out, options.format.split(","), options.apart, width):
        print(path)
    return DONE


def table(options: Namespace) -> int:
    from clipbench.report.table import tables  # without matplotlib, which `plot` needs

    found = tables(options.results, options.format.split(","), options.apart)
    print("\n".join(found.values()), end="")
    return DONE
