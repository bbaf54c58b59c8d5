"""Many runs: which there are, in which groups, on which workers. Gives back outcomes and prints nothing.

grid.py       a grid or the arms of an experiment file, as runs
groups.py     which of them go side by side
slots.py      where worker processes run
scheduler.py  hands groups to workers until nothing is left to do
workers.py    a process for each slot
messages.py   what a worker tells the sweep besides the events of its runs
outcome.py    what became of it
launch.py     the same runs as single jobs of another engine
engine.py     that engine: a Hydra launcher
job.py        one run in a process that it started
estimate.py   what there is to do, and how long it should take
speed.py      what a step and a validation cost
"""
