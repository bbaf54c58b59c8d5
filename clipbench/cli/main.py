"""argv → command. Imports neither torch nor hydra until a command must, so that help and lists answer at once."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from clipbench import __version__
from clipbench.errors import Unreadable, UserError, nearest

if TYPE_CHECKING:
    from clipbench.runs.plan import Plan

DONE, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130

HELP = """\
clipbench: should I clip, how, at what level, and does it matter?

  clipbench run task=cola optim.clipping_type=auto          one run, with its result
  clipbench sweep optim.clipping_type=none,norm seed=0,1    a grid of runs; finished ones are not repeated
  clipbench study task=cola study=quick                     tune every method alike, then compare on fresh seeds
  clipbench plot results/                                   the report of a results folder, and its figures
  clipbench table results/ --format latex                   its tables for a paper; also md and csv
  clipbench tails task=cola --at 0,100,500                  is the gradient's noise heavy-tailed
  clipbench list                                            tasks, optimizers and clipping types with their formulas
  clipbench prepare task=voc scale=full                     fetch or check a data set
  clipbench check my_clip:Smooth                            whether a rule or a task of your own keeps what it owes
  clipbench status results/                                 what is done, failed or unfinished
  clipbench rm results/ status=failed                       runs out of a results folder
  clipbench completion bash                                 TAB completion; also zsh and fish

  clipbench COMMAND --help   what it takes; for run, sweep and study, every key with its default
  clipbench --version
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 a run failed, 2 the user's mistake or data out of reach, 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return DONE
    if argv[0] in ("-V", "--version"):
        print(f"clipbench {__version__}")
        return DONE
    try:
        with _warnings_as_messages():
            return _command(argv[0])(argv[1:])
    except UserError as error:
        return _say(str(error), MISTAKE)
    except KeyboardInterrupt:
        return _say("Interrupted.", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output, `head` for one, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


@contextmanager
def _warnings_as_messages() -> Iterator[None]:
    """A file that is skipped is named in one line, once; other warnings are shown as ever."""
    with warnings.catch_warnings():
        warnings.simplefilter("once", Unreadable)
        show = warnings.showwarning

        def say(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if issubclass(category, Unreadable):
                _say(str(message), DONE)
            else:
                show(message, category, *where)

        warnings.showwarning = say  # type: ignore[assignment]
        yield


def _command(name: str) -> Callable[[list[str]], int]:
    commands = {"run": run, "sweep": sweep, "study": study, "plot": plot, "table": table, "tails": tails}
    commands |= {"list": list_everything, "prepare": prepare}
    commands |= {"check": check, "status": status, "rm": rm, "completion": completion}
    if name == "complete":  # what the shells' scripts call
        return complete
    if name not in commands:
        raise UserError(
            f"Unknown command '{name}'.{nearest(name, commands)} Known: {', '.join(commands)}. See clipbench --help."
        )
    return commands[name]


def _say(message: str, code: int) -> int:
    print(f"clipbench: {message}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[0].upper()}{message[1:]}. See {self.prog} --help.")


def _overrides(command: str, what: str, argv: list[str]) -> argparse.Namespace:
    """The options and, in any order among them, Hydra's overrides."""
    parser = _Parser(prog=f"clipbench {command}", description=what, allow_abbrev=False, add_help=False)
    parser.add_argument("-h", "--help", action="store_true", help="this text")
    parser.add_argument(
        "--config-dir",
        type=Path,
        metavar="DIR",
        help="a folder of your own with task/<name>.yaml, optim/<name>.yaml …",
    )
    if command == "sweep":
        parser.add_argument("-m", "--multirun", action="store_true", help="accepted and implied")
    if command in ("sweep", "study"):
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="say what there is to do and how long it should take; start nothing",
        )
    if command == "tails":
        parser.add_argument(
            "--at",
            metavar="STEPS",
            help="training steps after which to measure, as 0,100,500 (before training, half-way, at the end)",
        )
        parser.add_argument(
            "--batches",
            type=int,
            default=1000,
            metavar="N",
            help="batches to measure, in whole passes where these are shorter (1000)",
        )
    options, rest = parser.parse_known_args(argv)
    if options.help:
        from clipbench.cli.listing import keys

        parser.usage = f"clipbench {command} [--config-dir DIR] [KEY=VALUE …]"
        print(parser.format_help() + "\n" + keys(options.config_dir, studies=command == "study"), end="")
        raise SystemExit(DONE)
    if flags := [word for word in rest if word.startswith("-")]:
        parser.error(f"unknown option {flags[0]}")
    options.overrides = rest
    return options


def _loading() -> None:
    """Seconds of imports are coming: say so on a terminal, on a line that the next one overwrites."""
    if sys.stderr.isatty():
        print("loading torch …", end="\r", file=sys.stderr, flush=True)


def run(argv: list[str]) -> int:
    options = _overrides("run", "Make one run, record it and show its result.", argv)
    _loading()
    from clipbench.cli import show
    from clipbench.runs.plan import make_plan
    from clipbench.sweeps.grid import split_launcher

    words, launcher = split_launcher(options.overrides)
    if launcher:
        raise UserError(
            f"{launcher[0]}: a launcher makes a sweep. For one run: clipbench sweep optim.clipping_type=auto seed=0 …"
        )
    plan = make_plan(words, options.config_dir)
    if (row := show.finished_row(plan)) is None:
        row = _make(plan)
    else:
        print(
            f"{plan.label}\nIt is finished already; this is its result. For another run change a setting, the seed for instance."
        )
    if row is None:
        return _say("Interrupted. Nothing is lost: the same command goes on from there.", INTERRUPTED)
    if row["status"] == "failed":
        print(row["error"], file=sys.stderr)
        return _say(
            f"The run failed and is recorded so, with this traceback, as {plan.run}. The same command tries again.",
            FAILED,
        )
    show.result(plan, row)
    return DONE


def _make(plan: Plan) -> dict[str, Any] | None:
    """The run's row; None if it was interrupted."""
    from clipbench.cli import show
    from clipbench.interrupt import first_interrupt
    from clipbench.runs.lockstep import record_failure, train_group

    try:
        with (
            first_interrupt(_keeping("Finishing the step and keeping everything.")) as interrupted,
            show.progress(plan) as watch,
        ):
            for news in train_group([plan], interrupted):
                watch(news.rows)
                if news.elsewhere == "finished":
                    return show.finished_row(plan)
                if news.elsewhere:
                    raise UserError(
                        f"This run is being made by {news.elsewhere}. Wait for it, or stop that process first."
                    )
                if news.row:
                    return news.row
    except UserError:
        raise
    except Exception:
        return record_failure(plan, traceback.format_exc())
    return None


def _keeping(what: str) -> Callable[[], None]:
    def say() -> None:
        print(f"\n{what} Ctrl-C again stops now.", file=sys.stderr, flush=True)

    return say


def sweep(argv: list[str]) -> int:
    options = _overrides("sweep", "Make every run of a grid that is not finished yet.", argv)
    _loading()
    from clipbench.cli import show
    from clipbench.sweeps.estimate import estimate
    from clipbench.sweeps.grid import make_plans, split_launcher

    overrides, launcher = split_launcher(options.overrides)
    plans = make_plans(overrides, options.config_dir)
    if options.dry_run:
        _say_estimate(estimate(plans, launcher, announce=_announce))
        print("Nothing was started.")
        return DONE
    outcome = _made(plans, launcher, options.config_dir)
    if not outcome.interrupted:
        show.summary(plans[0].results, [plan.run for plan in plans])
    return _code(outcome)


def _announce(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _made(plans: Any, launcher: Any, config_dir: Any) -> Any:
    from clipbench.cli import show
    from clipbench.cli.board import board
    from clipbench.interrupt import first_interrupt
    from clipbench.sweeps.launch import launch
    from clipbench.sweeps.scheduler import make_runs, unfinished

    todo = unfinished(plans)
    finished = len(plans) - len(todo)
    print(
        f"{len(plans)} runs, {finished} of them finished already, {len(todo)} to do, into {plans[0].results}",
        flush=True,
    )

    def job_ended(done: int, of: int, plan: Plan, row: Any) -> None:
        print(f"{done}/{of}  {plan.label}  {show.outcome(row) if row else ''}", file=sys.stderr, flush=True)

    with first_interrupt(_keeping("Finishing the steps at hand and keeping everything.")) as interrupted:
        if launcher:
            return launch(plans, launcher, config_dir, interrupted, job_ended)
        with board() as listener:
            return make_runs(plans, interrupted, listener)


def _code(outcome: Any, lacking: tuple[str, ...] = ()) -> int:
    if outcome.interrupted:
        done = f"{len(outcome.finished)} of {len(outcome.plans)} runs are done"
        return _say(
            f"Interrupted, {done}. Nothing is lost: the same command goes on from there.", INTERRUPTED
        )
    for plan in outcome.failed:
        print(f"failed: {plan.command}", file=sys.stderr)
    texts = list(outcome.mistakes)
    if texts:
        missing = f"{len(outcome.not_made)} of {len(outcome.plans)} runs were not made"
        texts.append(f"({missing}; the same command goes on from there.)")
    if texts or lacking:
        _say(" ".join([*texts, *lacking]), MISTAKE)
    if outcome.launcher_error:
        _say(f"{outcome.launcher_error} {outcome.left_behind}", FAILED)
    for plan in outcome.not_made:
        print(f"not finished: {plan.command}  {outcome.notes.get(plan.run, '')}".rstrip(), file=sys.stderr)
    if outcome.mistakes:
        return MISTAKE
    return FAILED if outcome.failed or outcome.not_made or lacking or outcome.launcher_error else DONE


def _say_estimate(found: Any) -> None:
    diverged = f" ({found.diverged} diverged)" if found.diverged else ""
    todo = f"{found.left.runs} to do"
    print(f"{found.runs} runs into {found.results}: {found.finished} finished{diverged}, {todo}")
    print(f"  {found.new} new, {found.unfinished} unfinished, {found.failed} failed that are tried again")
    for kind in found.kinds:
        print(f"  {kind.kind}: {kind.runs} runs, {kind.steps} steps left, {kind.speed}")
    print(f"About {found.left}")


def study(argv: list[str]) -> int:
    options = _overrides(
        "study", "Tune every method on the same budget, and compare the winners on fresh seeds.", argv
    )
    _loading()
    from clipbench.report.draw import draw
    from clipbench.studies.contest import contests
    from clipbench.studies.protocol import check_folder, estimate_study, run_study
    from clipbench.sweeps.grid import split_launcher

    overrides, launcher = split_launcher(options.overrides)
    found = contests(overrides, options.config_dir)
    if options.dry_run:
        for phase in estimate_study(found, launcher, _announce):
            _say_estimate(phase)
        return DONE
    check_folder(found)

    def say_phase(name: str, plans: Any) -> None:
        print("\nTuning: " if name == "tuning" else "\nFinal runs, on fresh seeds: ", end="", flush=True)

    outcome = run_study(found, lambda plans: _made(plans, launcher, options.config_dir), say_phase)
    if outcome.finals and not outcome.interrupted:
        for path in draw(found[0].results, found[0].results / "figures"):
            print(path)
    codes = [
        _code(phase, outcome.shortfall if phase is outcome.phases[-1] else ()) for phase in outcome.phases
    ]
    return max(codes)


def prepare(argv: list[str]) -> int:
    options = _overrides(
        "prepare", "Fetch a task's data where that is possible, check them and say what is there.", argv
    )
    from clipbench.runs import config
    from clipbench.runs.build import build_task, find_device

    settings = config.load(options.overrides, options.config_dir)
    print(build_task(settings, find_device("cpu")).prepare())
    return DONE


def tails(argv: list[str]) -> int:
    options = _overrides(
        "tails", "Measure the gradient's noise over batches at fixed weights, and draw its tail.", argv
    )
    _loading()
    from clipbench.cli import show
    from clipbench.plot.tails import conclusion, draw_tails, made, numbers, samples
    from clipbench.runs.noise import measure_noise, parse_steps
    from clipbench.runs.plan import make_plan

    plan = make_plan(options.overrides, options.config_dir)
    at = parse_steps(options.at, plan.settings.steps)
    with show.counting(plan.label) as tick:
        rows = measure_noise(plan, at, options.batches, tick)
    print(made(rows))
    for step, tail in samples(rows).items():
        print(f"{numbers(step, tail)}\n  {conclusion(tail)}")
    name = f"{plan.settings.task.name}_{plan.settings.scale}_{plan.run}_tails.png"
    print(draw_tails(rows, plan.results / "figures" / name))
    return DONE


APART = "each setting stands for itself, with those of the other optimizers: for arms that were chosen beforehand, as a published figure's"


def plot(argv: list[str]) -> int:
    parser = _Parser(
        prog="clipbench plot",
        description="The report and figures of a results folder, from its tables.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "results",
        type=Path,
        nargs="?",
        default=Path("results"),
        help="the folder with steps/, evals/ and runs/ (results)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where report.html and the figures go (<results>/figures)"
    )
    parser.add_argument(
        "--format",
        default="png",
        metavar="LIST",
        help="of the figures: png, svg, pdf, or several as svg,pdf (png)",
    )
    parser.add_argument("--apart", action="store_true", help=APART)
    options = parser.parse_args(argv)
    from clipbench.report.draw import draw

    for path in draw(
        options.results, options.out or options.results / "figures", options.format.split(","), options.apart
    ):
        print(path)
    return DONE


def check(argv: list[str]) -> int:
    parser = _Parser(
        prog="clipbench check", description="Whether a rule or a task keeps what it owes.", allow_abbrev=False
    )
    parser.usage = "clipbench check [--config-dir DIR] (MODULE:CLASS | TYPE | task=NAME [KEY=VALUE …])"
    parser.add_argument(
        "what", nargs="+", help="my_clip:Smooth, my_task:Mine, a clipping type, or task=NAME with settings"
    )
    parser.add_argument(
        "--config-dir",
        type=Path,
        metavar="DIR",
        help="a folder of your own, where modules and tasks are looked for too",
    )
    options = parser.parse_args(argv)
    _loading()
    from clipbench.cli.check import check_task, check_words

    return (
        DONE
        if (check_task if "=" in options.what[0] else check_words)(options.what, options.config_dir)
        else FAILED
    )


def table(argv: list[str]) -> int:
    parser = _Parser(
        prog="clipbench table", description="Print the report's tables, for a paper.", allow_abbrev=False
    )
    parser.add_argument(
        "results", type=Path, nargs="?", default=Path("results"), help="a results folder (results)"
    )
    parser.add_argument(
        "--format",
        default="md",
        metavar="LIST",
        help="md, latex (booktabs), csv (every digit), or several as md,csv (md)",
    )
    parser.add_argument("--apart", action="store_true", help=APART)
    options = parser.parse_args(argv)
    from clipbench.report.table import tables

    print("\n".join(tables(options.results, options.format.split(","), options.apart).values()), end="")
    return DONE


def status(argv: list[str]) -> int:
    parser = _Parser(
        prog="clipbench status",
        description="What is done, failed, unfinished or being made.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "results", type=Path, nargs="?", default=Path("results"), help="a results folder (results)"
    )
    options = parser.parse_args(argv)
    from clipbench.cli.status import show

    show(options.results)
    return DONE


def rm(argv: list[str]) -> int:
    from clipbench.cli.remove import FILTER, remove

    parser = _Parser(
        prog="clipbench rm",
        description="Remove runs from the three tables, with their checkpoints.",
        allow_abbrev=False,
    )
    parser.epilog, parser.formatter_class = FILTER, argparse.RawDescriptionHelpFormatter
    parser.add_argument("results", type=Path, help="a results folder; it comes first")
    parser.add_argument("filters", metavar="FILTER", nargs="*", help="which runs: see below")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    options = parser.parse_intermixed_args(argv)
    remove(options.results, options.filters, options.yes)
    return DONE


def completion(argv: list[str]) -> int:
    parser = _Parser(
        prog="clipbench completion", description="Print the script that makes TAB complete clipbench's words."
    )
    parser.add_argument("shell", metavar="SHELL", help="bash, zsh or fish")
    options = parser.parse_args(argv)
    from clipbench.cli.completion import script

    print(script(options.shell), end="")
    return DONE


def complete(argv: list[str]) -> int:
    if not 3 <= len(argv) <= 4:
        raise UserError(
            "`clipbench complete` is for the shells. The script that makes them ask: clipbench completion bash"
        )
    from clipbench.cli.completion import answer

    print("".join(f"{line}\n" for line in answer(*argv)), end="")
    return DONE


def list_everything(argv: list[str]) -> int:
    parser = _Parser(
        prog="clipbench list",
        description="Tasks, optimizers, restarts, studies and clipping types.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config-dir",
        type=Path,
        metavar="DIR",
        help="a folder of your own: its tasks and optimizers are listed too",
    )
    options = parser.parse_args(argv)
    from clipbench.cli.listing import everything

    print(everything(options.config_dir), end="")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
