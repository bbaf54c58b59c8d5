"""What a results folder holds: the tables, and what is there of runs that have not ended.

rows.py    the one definition of every column
files.py   names of files; written whole or not at all
tables.py  the three tables: write one run, read them all
folder.py  a run's folder until it has ended: the one home of `.work`
lease.py   who makes a run
state.py   a folder at rest: what has ended, what has not
"""
