"""What the bench asks of a task, and what helps to write one.

task.py        the Task class: subclass it; and what its training batches may do
metrics.py     what a metric is, and the few that our tasks need
metric_set.py  a task's metrics as one object
tree.py        tensors in tuples, lists and dicts: what `forward` may return
spikes.py      bad batches, planted
order.py       shuffled index batches, and a fixed part held out
loading.py     batches through worker processes, the same for any number of them
images.py      what an image file says, as pixels
content.py     which files are data, and a hash of what they hold
prepared.py    what is made of data once, in the user's cache folder
tensor_file.py tensors in one file, with a hash of what they hold
seeds.py       a generator for each use of randomness
laws.py        the contract of every task: for our tests and for `clipbench check`
probe.py       what the laws look at: batches, examples, losses of parts
"""

from clipbench.task.metric_set import MetricSet, majority
from clipbench.task.metrics import Metric, Resolution
from clipbench.task.order import holdout, shuffled
from clipbench.task.task import Batch, Batches, Task, prepare_on_device

__all__ = [
    "Batch",
    "Batches",
    "Metric",
    "MetricSet",
    "Resolution",
    "Task",
    "holdout",
    "majority",
    "prepare_on_device",
    "shuffled",
]
