"""A command's words → its options, by the table of commands."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from clipbench.cli.commands import Command
from clipbench.cli.listing import chosen_in, keys
from clipbench.cli.messages import DONE
from clipbench.errors import UserError


class Parser(argparse.ArgumentParser):
    """A mistake is a UserError, said like any other."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[0].upper()}{message[1:]}. See {self.prog} --help.")


def parse(name: str, command: Command, argv: Sequence[str]) -> argparse.Namespace:
    """The options by their names; Hydra's overrides, in any order among them, as `overrides`.

    UserError for what the command does not take. --help prints the command's help and raises SystemExit.
    """
    parser = _parser(name, command)
    if not command.overrides:
        return parser.parse_intermixed_args(argv) if command.options_anywhere else parser.parse_args(argv)
    options, rest = parser.parse_known_args(argv)
    if options.help:
        print(parser.format_help() + "\n" + keys(options.config_dir, command.draws, chosen_in(rest)), end="")
        raise SystemExit(DONE)
    for word in rest:
        if word.startswith("-"):
            parser.error(f"unknown option {word}")
    options.overrides = rest
    return options


def _parser(name: str, command: Command) -> Parser:
    """argparse's, with the places and options of the table; of a command with overrides, without its own
    --help.
    """
    usage = command.usage or None
    if command.overrides:
        usage = f"clipbench {name} [--config-dir DIR] [KEY=VALUE …]"
    parser = Parser(
        prog=f"clipbench {name}",
        usage=usage,
        description=command.description,
        epilog=command.epilog or None,
        formatter_class=argparse.RawDescriptionHelpFormatter if command.epilog else argparse.HelpFormatter,
        allow_abbrev=False,
        add_help=not command.overrides,
    )
    if command.overrides:  # the keys follow the options: `parse` prints both
        parser.add_argument("-h", "--help", action="store_true", help="this text")
    for place in command.places:
        more: dict[str, Any] = {"metavar": place.shown} if place.shown else {}
        if place.count:
            more |= {"nargs": place.count}
        if place.count == "?":
            more |= {"default": place.default}
        parser.add_argument(place.name, type=place.type, help=place.help, **more)
    for option in command.options:
        names = [option.short, option.name] if option.short else [option.name]
        if option.value:
            parser.add_argument(
                *names, type=option.type, default=option.default, metavar=option.value, help=option.help
            )
        else:
            parser.add_argument(*names, action="store_true", help=option.help)
    return parser
