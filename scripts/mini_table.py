"""The README's table of the mini tasks: every task with every optimizer at its defaults. Some seven minutes on two CPU cores.

python scripts/mini_table.py [RESULTS]
"""

import sys
from pathlib import Path

import pandas as pd

from clipbench import results
from clipbench.cli import main

TASKS, OPTIMIZERS = ("imagenet", "voc", "cola", "reddit"), ("sgd", "adam", "adamw")


def cell(runs: pd.DataFrame, task: str, optimizer: str) -> str:
    return f"{runs[(runs['task'] == task) & (runs['optimizer'] == optimizer)].iloc[0]['final_test']:.3f}"


def table(folder: Path) -> str:
    runs = results.read(folder, "runs")
    lines = [
        f"| task | headline | {runs['baseline'][0]} | " + " | ".join(f"`optim={name}`" for name in OPTIMIZERS) + " |",
        "|---" * 6 + "|",
    ]
    for task in TASKS:
        first = runs[runs["task"] == task].iloc[0]
        cells = [cell(runs, task, optimizer) for optimizer in OPTIMIZERS]
        lines.append(f"| `{task}` | {first['headline']} | {first['baseline_test']:.3f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "results/mini_table")
    code = main(["sweep", f"task={','.join(TASKS)}", f"optim={','.join(OPTIMIZERS)}", "optim.clipping_type=norm", f"results={folder}"])
    print(table(folder))
    sys.exit(code)
