"""The commands, in one table. The help, TAB completion and the answer to an unknown command are made from it,
so a new command is one entry here and one function. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clipbench.errors import UserError, nearest

SHELLS = ("bash", "zsh", "fish")

What = Literal["text", "folder", "names", "filters", "classes"]
"""What stands at a place or as an option's value, for TAB: any text; a folder; one of `names`; filters of
`rm`; a class for `check`.
"""


@dataclass(frozen=True)
class Option:
    """--NAME. `value`: what the help calls its value, "" for a switch; `default`: its value where it is not
    given; `names`: what TAB offers as its value.
    """

    name: str
    help: str
    value: str = ""
    default: Any = None
    type: Callable[[str], Any] = str
    short: str = ""
    what: What = "text"
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """What stands without a name of its own. `count`: argparse's nargs, "" for exactly one; `shown`: what the
    help calls it; `names`: what TAB offers.
    """

    name: str
    help: str
    count: Literal["", "?", "+", "*"] = ""
    default: Any = None
    type: Callable[[str], Any] = str
    shown: str = ""
    what: What = "text"
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Command:
    """A command. `example` and `summary`: its line of `clipbench --help`; `description`: of its own help.

    `function`: "module:function" under clipbench.cli; it takes the parsed options and gives the exit code.
    `overrides`: whether it takes Hydra's overrides, KEY=VALUE, among its options. `several_values`: whether
    any key may have several, and `+experiment` a file's arms. `draws`: whether it takes the keys of studies,
    and sets seeds and hyperparameters itself. `takes_launcher`: whether another engine may make its runs.
    `loads_torch`: whether to say so, because it takes seconds. `only_prints`: whether what it prints is all
    that it makes.
    """

    example: str
    summary: str
    description: str
    function: str
    options: tuple[Option, ...] = ()
    places: tuple[Place, ...] = ()
    overrides: bool = False
    several_values: bool = False
    draws: bool = False
    takes_launcher: bool = False
    loads_torch: bool = False
    only_prints: bool = False
    usage: str = ""
    epilog: str = ""
    options_anywhere: bool = False


CONFIG_DIR = Option(
    "--config-dir",
    "a folder of your own with task/<name>.yaml, optim/<name>.yaml …",
    value="DIR",
    type=Path,
    what="folder",
)
DRY_RUN = Option("--dry-run", "say what there is to do and how long it should take; start nothing")
WIDTH = Option(
    "--width",
    "of the figures, in in, cm or mm: 3.25in is one column of a paper, 6.75in are both (6.75in)",
    value="WIDTH",
    default="6.75in",
    what="names",
    names=("3.25in", "6.75in"),
)
APART = Option(
    "--apart",
    "each setting stands for itself, with those of the other optimizers: for arms that were chosen "
    "beforehand, as a published figure's",
)
RESULTS = Place(
    "results", "a results folder (results)", count="?", default=Path("results"), type=Path, what="folder"
)
FILTER = """\
A FILTER is KEY=VALUE, where KEY is a column of `runs`; all filters must hold.
  status=failed  task=cola,voc  clipping_type!=none  'seed>2'  'lr<=0.01'  clipping_level=null
Several values mean any of them. < and > need quotes in a shell. Or give ids of runs, as `clipbench status` shows them.
Unfinished runs are meant only by their ids or by status=unfinished. A run that a process is making is left alone.
"""  # noqa: E501  (set for the width of a terminal)

COMMANDS: Mapping[str, Command] = {
    "run": Command(
        example="clipbench run task=cola optim.clipping_type=auto",
        summary="one run, with its result",
        description="Make one run, record it and show its result.",
        function="run:run",
        options=(CONFIG_DIR,),
        overrides=True,
        loads_torch=True,
    ),
    "sweep": Command(
        example="clipbench sweep optim.clipping_type=none,norm seed=0,1",
        summary="a grid of runs; finished ones are not repeated",
        description="Make every run of a grid that is not finished yet.",
        function="sweep:sweep",
        options=(CONFIG_DIR, Option("--multirun", "accepted and implied", short="-m"), DRY_RUN),
        overrides=True,
        several_values=True,
        takes_launcher=True,
        loads_torch=True,
    ),
    "study": Command(
        example="clipbench study task=cola study=quick",
        summary="tune every method alike, then compare on fresh seeds",
        description="Tune every method on the same budget, and compare the winners on fresh seeds.",
        function="study:study",
        options=(CONFIG_DIR, DRY_RUN),
        overrides=True,
        draws=True,
        takes_launcher=True,
        loads_torch=True,
    ),
    "plot": Command(
        example="clipbench plot results/",
        summary="the report of a results folder, and its figures",
        description="The report and figures of a results folder, from its tables.",
        function="plot:plot",
        places=(
            Place(
                "results",
                "the folder with steps/, evals/ and runs/ (results)",
                count="?",
                default=Path("results"),
                type=Path,
                what="folder",
            ),
        ),
        options=(
            Option(
                "--out",
                "where report.html and the figures go (<results>/figures)",
                value="DIR",
                type=Path,
                what="folder",
            ),
            Option(
                "--format",
                "of the figures: png, svg, pdf, or several as svg,pdf (png)",
                value="LIST",
                default="png",
                what="names",
                names=("png", "svg", "pdf"),
            ),
            WIDTH,
            APART,
        ),
    ),
    "table": Command(
        example="clipbench table results/ --format latex",
        summary="its tables for a paper; also md and csv",
        description="Print the report's tables, for a paper.",
        function="plot:table",
        only_prints=True,
        places=(RESULTS,),
        options=(
            Option(
                "--format",
                "md, latex (booktabs), csv (every digit), or several as md,csv (md)",
                value="LIST",
                default="md",
                what="names",
                names=("md", "latex", "csv"),
            ),
            APART,
        ),
    ),
    "tails": Command(
        example="clipbench tails task=cola --at 0,100,500",
        summary="is the gradient's noise heavy-tailed",
        description="Measure the gradient's noise over batches at fixed weights, and draw its tail.",
        function="tails:tails",
        options=(
            CONFIG_DIR,
            Option(
                "--from",
                "a finished run of the results folder: at the weights that it kept, nothing is trained",
                value="RUN",
            ),
            Option(
                "--at",
                "training steps after which to measure, as 0,100,500 (before training, half-way, at the end)",
                value="STEPS",
            ),
            Option(
                "--batches",
                "batches to measure, in whole passes where these are shorter (1000)",
                value="N",
                default=1000,
                type=int,
            ),
            WIDTH,
        ),
        overrides=True,
        loads_torch=True,
    ),
    "list": Command(
        example="clipbench list",
        summary="tasks, optimizers and clipping types with their formulas",
        description="Tasks, optimizers, restarts, studies and clipping types.",
        function="lists:list_everything",
        only_prints=True,
        options=(
            Option(
                "--config-dir",
                "a folder of your own: its tasks and optimizers are listed too",
                value="DIR",
                type=Path,
                what="folder",
            ),
        ),
    ),
    "prepare": Command(
        example="clipbench prepare task=voc scale=full",
        summary="fetch or check a data set",
        description="Fetch a task's data where that is possible, check them and say what is there.",
        function="prepare:prepare",
        options=(CONFIG_DIR,),
        overrides=True,
    ),
    "check": Command(
        example="clipbench check my_clip:Smooth",
        summary="whether a rule or a task of your own keeps its contract",
        description="Whether a rule or a task keeps its contract.",
        function="check:check",
        only_prints=True,
        places=(
            Place(
                "what",
                "my_clip:Smooth, my_task:Mine, a clipping type, or task=NAME with settings",
                count="+",
                what="classes",
            ),
        ),
        options=(
            Option(
                "--config-dir",
                "a folder of your own, where modules and tasks are looked for too",
                value="DIR",
                type=Path,
                what="folder",
            ),
        ),
        usage="clipbench check [--config-dir DIR] (MODULE:CLASS | TYPE | task=NAME [KEY=VALUE …])",
        loads_torch=True,
    ),
    "status": Command(
        example="clipbench status results/",
        summary="what is done, failed or unfinished",
        description="What is done, failed, unfinished or being made.",
        function="status:status",
        only_prints=True,
        places=(RESULTS,),
    ),
    "rm": Command(
        example="clipbench rm results/ status=failed",
        summary="runs out of a results folder",
        description="Remove runs from the three tables, with their checkpoints.",
        function="remove:rm",
        places=(
            Place("results", "a results folder; it comes first", type=Path, what="folder"),
            Place("filters", "which runs: see below", count="*", shown="FILTER", what="filters"),
        ),
        options=(Option("--yes", "do not ask", short="-y"),),
        epilog=FILTER,
        options_anywhere=True,
    ),
    "completion": Command(
        example="clipbench completion bash",
        summary="TAB completion; also zsh and fish",
        description="Print the script that makes TAB complete clipbench's words.",
        function="lists:completion",
        only_prints=True,
        places=(Place("shell", "bash, zsh or fish", shown="SHELL", what="names", names=SHELLS),),
    ),
}
"""Every command that `clipbench --help` names, in its order."""


def command_named(name: str) -> Command:
    """UserError with the nearest spelling for what is no command."""
    if name not in COMMANDS:
        close = nearest(name, COMMANDS)
        raise UserError(
            f"Unknown command '{name}'.{close} Known: {', '.join(COMMANDS)}. See clipbench --help."
        )
    return COMMANDS[name]


def help_text() -> str:
    """What `clipbench --help` prints: a line for each command."""
    width = max(len(command.example) for command in COMMANDS.values()) + 4
    lines = ["clipbench: should I clip, how, at what level, and does it matter?", ""]
    for command in COMMANDS.values():
        lines.append(f"  {command.example:{width}}{command.summary}")
    lines += [
        "",
        "  clipbench COMMAND --help   what it takes; for run, sweep and study, every key with its default,",
        "                             or those of a task and an optimizer: --help task=NAME optim=NAME",
        "  clipbench --version",
        "",
    ]
    return "\n".join(lines)
