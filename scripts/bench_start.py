"""How long the command line takes to answer, and a run to its first step over the imports that it cannot
avoid.

python scripts/bench_start.py [--rounds 5]

Fresh processes that take turns; medians of seconds. The imports: torch, hydra, the readers of tables and the
task's own library.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

SHARED = "import torch, hydra, pandas, pyarrow.parquet, rich"
OWN = {
    "cola": "from transformers import BertForSequenceClassification",
    "reddit": "import torch_geometric",
    "imagenet": "import torchvision",
}
FIRST = """
import sys, time
from clipbench.train.learner import Learner
from clipbench.cli.main import main
class First(BaseException): pass
learn = Learner.learn
def learn_once(self, *batches):
    learn(self, *batches)
    raise First
Learner.learn = learn_once
try:
    main(sys.argv[1:])
except First:
    pass
"""


def seconds(*command: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return time.perf_counter() - started


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "clipbench --help": ["-m", "clipbench", "--help"],
            "clipbench list": ["-m", "clipbench.cli.main", "list"],
        }
        for task, library in OWN.items():
            ways[f"imports of {task}"] = ["-c", f"{SHARED}\n{library}"]
            ways[f"first step of {task}"] = ["-c", FIRST, "run", f"task={task}", f"results={folder}/{task}"]
        times: dict[str, list[float]] = {name: [] for name in ways}
        for i in range(rounds + 1):  # the first fills the disk's cache
            for name, command in ways.items():
                times[name].append(seconds(*command))
                if i == 0:
                    times[name].clear()
    median = {name: statistics.median(values) for name, values in times.items()}
    print("| what | seconds | / imports |\n|---|---|---|")
    for name, value in median.items():
        ratio = (
            f"{value / median[name.replace('first step', 'imports')]:.2f}" if name.startswith("first") else ""
        )
        print(f"| {name} | {value:.2f} | {ratio} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    main(parser.parse_args().rounds)
