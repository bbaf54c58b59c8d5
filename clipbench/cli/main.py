"""argv → command, and the exit code. Imports neither torch nor hydra until a command must, so that help and
lists answer at once.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from clipbench import __version__
from clipbench.cli.arguments import parse
from clipbench.cli.commands import command_named, help_text
from clipbench.cli.messages import DONE, FAILED, INTERRUPTED, MISTAKE, say, say_loading
from clipbench.errors import Unreadable, UserError
from clipbench.output import VisibleStream, lasting_output


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 a run failed or something is missing, 2 the user's mistake or data out of reach,
    130 interrupted. What cannot be shown changes none of them, but where showing is all that was asked for.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    with lasting_output():
        return _main(words)


def _main(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text(), end="")
        return DONE
    if words[0] in ("-V", "--version"):
        print(f"clipbench {__version__}")
        return DONE
    try:
        with _warnings_as_messages():
            return _run(words[0], words[1:])
    except UserError as error:
        return say(str(error), MISTAKE)
    except KeyboardInterrupt:
        return say("Interrupted.", INTERRUPTED)


def _run(name: str, argv: Sequence[str]) -> int:
    if name == "complete":  # what the shells' scripts call; nobody types it
        from clipbench.cli.lists import complete

        return complete(argv)
    os.environ["MPLBACKEND"] = "agg"  # commands draw into files; a notebook's own may not be installed here
    command = command_named(name)
    options = parse(name, command, argv)
    if command.loads_torch:
        say_loading()
    module, _, function = command.function.partition(":")
    code = getattr(import_module(f"clipbench.cli.{module}"), function)(options)
    return _printed(code) if command.only_prints else code


def _printed(code: int) -> int:
    """`code`, but FAILED where it says DONE and what was to be printed was not: the disk is full, say."""
    sys.stdout.flush()
    out: Any = sys.stdout
    if code == DONE and isinstance(out, VisibleStream) and out.lost_something:
        return say(f"Not all could be written: {out.refused}.", FAILED)
    return code


@contextmanager
def _warnings_as_messages() -> Iterator[None]:
    """A file that is skipped is named in one line, once; other warnings are shown as ever."""
    with warnings.catch_warnings():
        warnings.simplefilter("once", Unreadable)
        show = warnings.showwarning

        def show_or_say(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if issubclass(category, Unreadable):
                say(str(message), DONE)
            else:
                show(message, category, *where)

        warnings.showwarning = show_or_say  # type: ignore[assignment]
        yield


if __name__ == "__main__":
    sys.exit(main())
