"""The command line: the only room that prints and knows exit codes. Help, lists and TAB answer at once: what
they need imports nothing heavy.

main.py        argv → command, and the exit code
commands.py    the table of commands
arguments.py   a command's words → its options
messages.py    exit codes, messages on stderr, counts and durations in words

run.py         one run
sweep.py       a grid of runs
study.py       tuning, final runs, what was found
estimate.py    --dry-run
tails.py       the gradient's noise
plot.py        the report and the tables of a results folder
status.py      a results folder at rest
remove.py      runs out of it
filters.py     which runs a filter means
check.py       the contract of rules and tasks
prepare.py     a task's data
lists.py       list, completion, and the shells' own call

progress.py    how far a run is
live.py        how far a sweep is
overview.py    what is known of a sweep, from its events
latest.py      what is known of a run, from its rows
area.py        lines on a terminal that are written anew
result.py      runs that have ended
describe.py    rows of `runs` in words

listing.py     the text of `list`, and the keys in the help
sources.py     our source and configuration files, read as text
completion.py  TAB: the shells' scripts and their answers
candidates.py  what may stand at a place of the line
keys.py        keys and their values
"""
