"""Another engine that makes runs: the launcher that `hydra/launcher=NAME` chooses, as the user sets it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.callbacks import Callbacks
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf.errors import OmegaConfBaseException

from clipbench.errors import UserError, nearest
from clipbench.runs import config
from clipbench.sweeps.job import Job

GROUP = "hydra/launcher"
SETTINGS = "hydra.launcher."
EXTRAS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}
"""Launchers that a plugin brings, and the extra of ours that installs it."""

QUIET = (
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
    "hydra.output_subdir=null",
    "hydra.sweep.subdir=.",
)


def make_launcher(overrides: Sequence[str], config_dir: Path | None, folder: Path) -> Launcher:
    """The engine's launcher with the user's `hydra.launcher.KEY=VALUE`, ready to launch jobs of ours that
    keep their things in `folder`. UserError for what is unknown or not installed.
    """
    parsed = config.parse(overrides)
    chosen = [override for override in parsed if override.key_or_group == GROUP]
    fixed = [*QUIET, "hydra.job.name=clipbench", f"hydra.sweep.dir={_quoted(str(folder))}"]
    own = config_dir.absolute() if config_dir else None
    if own:
        place = _quoted(f"file://{own}")
        fixed.append(f"hydra.searchpath=[{place}]")
    with config.our_hydra():
        loader: ConfigLoader = GlobalHydra.instance().config_loader()
        _check_choice(chosen, loader.get_group_options(GROUP), own)
        try:
            _check_keys(parsed, str(chosen[0].input_line), fixed)
            composed = compose(None, [*fixed, *overrides], return_hydra_config=True)
            job: Any = Job(os.getcwd(), folder, config_dir)
            context = HydraContext(loader, Callbacks())
            return Plugins.instance().instantiate_launcher(context, job, composed)
        except (HydraException, OmegaConfBaseException) as error:
            reason = " ".join(str(error).split())
            cause = f" {str(error.__cause__).splitlines()[0]}." if error.__cause__ else ""
            raise UserError(f"{' '.join(overrides)}: {reason}.{cause}") from error


def _check_keys(parsed: Sequence[Override], choice: str, fixed: Sequence[str]) -> None:
    """Only settings that the chosen launcher has."""
    known = list(compose(None, [*fixed, choice], return_hydra_config=True).hydra.launcher)
    for override in parsed:
        if override.key_or_group == GROUP:
            continue
        key = override.key_or_group.removeprefix(SETTINGS).split(".")[0]
        if key not in known:
            names = ", ".join(str(name) for name in known if name != "_target_")
            close = nearest(key, known)
            raise UserError(f"Unknown key '{override.key_or_group}'.{close} {choice} takes: {names}.")


def _check_choice(chosen: Sequence[Override], installed: Sequence[str], config_dir: Path | None) -> None:
    """One launcher, and one that is there."""
    there = {*installed, *config.options(GROUP, config_dir)} - {"basic"}
    known = sorted({*there, *EXTRAS})
    names = [override.value() for override in chosen]
    if len(names) != 1 or not isinstance(names[0], str):
        given = " ".join(str(override.input_line) for override in chosen) or "none"
        raise UserError(
            f"A sweep is handed to one launcher, {GROUP}=NAME; got {given}. Known: {', '.join(known)}."
        )
    name = names[0]
    if name not in known:
        raise UserError(f"Unknown {GROUP} '{name}'.{nearest(name, known)} Known: {', '.join(known)}.")
    if name not in there:
        raise UserError(f"{GROUP}={name} needs a plugin: pip install 'clipbench[{EXTRAS[name]}]'")


def _quoted(text: str) -> str:
    """As one word of Hydra's grammar, whatever is in it."""
    return QuotedString(text, Quote.single).with_quotes()
