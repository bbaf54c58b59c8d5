"""One run, or a group of them side by side: from settings to rows in the tables.

settings.py     everything that can be set, typed and checked
config.py       overrides → settings, composed by Hydra
yaml_files.py   configuration files, read with care
identity.py     settings → the run's id
sources.py      the modules that a user wrote, with what they import of theirs
plan.py         a run before it is made
remarks.py      what runs leave aside of what was asked for
build.py        settings → device, task, model, optimizer
patterns.py     which parameters get a level of their own, by name
lockstep.py     trains a group, with checkpoints, and records each run
children.py     runs that transform the weights of another
weights.py      weights that are kept, and taken up again
ending.py       what is recorded of runs as they end, and what is kept
events.py       what happens to runs, one stream for all who show or count it
checkpoint.py   what a run resumes from
recording.py    rows → the tables
noise.py        the gradient's noise at fixed weights, for `clipbench tails`
"""
