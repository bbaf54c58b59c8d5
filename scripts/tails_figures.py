"""The README's figures of the gradient's noise: a pretrained BERT on CoLA, ResNet18 on CIFAR-10, before training. Minutes on two CPU cores.

python scripts/tails_figures.py COLA MODEL CIFAR [RESULTS]

COLA: CoLA's raw files. MODEL: a BERT, MiniLM for instance. CIFAR: CIFAR-10 as folders train/<class>/*, val/<class>/*.
Tables and figures go to RESULTS (results/tails_figures), and copies named after the task to results/reference.
"""

import shutil
import sys
from pathlib import Path

from clipbench.cli import main

REFERENCE = Path(__file__).parents[1] / "results" / "reference"


def measure(task: str, results: Path, *words: str) -> int:
    """Every batch of a pass; 0 when done."""
    folder = results / task
    code = main(["tails", f"task={task}", "scale=full", "--at", "0", "--batches", "240", f"results={folder}", *words])
    for kind, pattern in {"png": "figures/*_tails.png", "parquet": "tails/*.parquet"}.items():
        for path in folder.glob(pattern):
            shutil.copy(path, REFERENCE / f"tails_{task}.{kind}")
    return code


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    cola, model, cifar, *rest = sys.argv[1:]
    results = Path(rest[0] if rest else "results/tails_figures")
    sys.exit(
        measure("cola", results, f"task.data={cola}", f"task.model={model}")
        or measure("imagenet", results, f"task.data={cifar}", "task.size=32", "batch_size=64")
    )
