"""The README's figure: all nine types with SGD on a folder of CIFAR-10 images (train/<class>/*, val/<class>/*), two seeds.

python scripts/cifar_figure.py DATA [RESULTS]
"""

import shutil
import sys
from pathlib import Path

from clipbench.cli import main
from clipbench.optim import RULES

SETTINGS = "task=imagenet scale=full task.size=32 task.workers=0 optim=sgd optim.lr=0.05 batch_size=32 steps=200 eval_every=50 threads=1"
REFERENCE = Path(__file__).parents[1] / "results" / "reference"

if __name__ == "__main__":
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else "results/cifar")
    axes = [f"optim.clipping_type={','.join(RULES)}", "seed=0,1"]
    code = main(["sweep", *SETTINGS.split(), f"task.data={sys.argv[1]}", *axes, f"results={folder}"])
    code = code or main(["plot", str(folder)])
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for figure in (folder / "figures").glob("*_comparison.png"):
        shutil.copy(figure, REFERENCE / "cifar_comparison.png")
    sys.exit(code)
