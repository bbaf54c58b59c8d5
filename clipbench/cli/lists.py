"""`clipbench list`, `clipbench completion`, and `complete`, which the shells call: what answers at once."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from clipbench.cli.completion import answer, script
from clipbench.cli.listing import everything
from clipbench.cli.messages import DONE
from clipbench.errors import UserError


def list_everything(options: Namespace) -> int:
    print(everything(options.config_dir), end="")
    return DONE


def completion(options: Namespace) -> int:
    print(script(options.shell), end="")
    return DONE


def complete(argv: Sequence[str]) -> int:
    """The shells' call: shell, cursor, line and, of bash, the part of the word to be replaced."""
    if not 3 <= len(argv) <= 4:
        raise UserError(
            "`clipbench complete` is for the shells. The script that makes them ask: clipbench completion "
            "bash"
        )
    for line in answer(*argv):
        print(line)
    return DONE
