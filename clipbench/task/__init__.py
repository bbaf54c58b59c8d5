"""What the bench asks of a task, and what helps to write one.

task.py     the Task class: subclass it
loading.py  batches through worker processes, the same for any number of them
seeds.py    a generator for each use of randomness
laws.py     what every task promises: for our tests and for `clipbench check`
"""

from clipbench.task.task import Batch, Task, holdout, majority, move, place, shuffled

__all__ = ["Batch", "Task", "holdout", "majority", "move", "place", "shuffled"]
