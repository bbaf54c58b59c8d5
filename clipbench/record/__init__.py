"""What a results folder holds: the tables, and what is there of runs that have not ended.

rows.py         the one definition of every column
files.py        names of files; written whole or not at all
tables.py       the three tables: write one run, read them all
folder.py       a run's folder until it has ended: the one home of `.work`
lease.py        who makes a run
state.py        a folder at rest: what has ended, what has not
outcome.py      what became of a run, by its evaluations
kept.py         rows of somebody's own loop on the disk, until they go into the tables

Not imported by these, for they import torch:
unread.py       steps whose values are still on the device
environment.py  where and when a run is made, and with what
values.py       what somebody's own loop gives: numbers, names of splits
found.py        what is found on somebody's own optimizer; it alone imports clipbench.optim
recorder.py     Recorder: rows from anybody's loop
recorded.py     from the rows that were kept to the tables
"""
