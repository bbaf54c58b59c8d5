"""The README's figure: all nine types with SGD on the Cora citation graph, laid out as PyG's Reddit class reads it, five seeds.

python scripts/cora_figure.py DATA [RESULTS]        DATA holds raw/reddit_data.npz and raw/reddit_graph.npz
"""

import shutil
import sys
from pathlib import Path

from clipbench.cli import main

TYPES = "none,norm,linear_rand_norm,quadratic_rand_norm,layer_wise,coordinate_wise,auto,linear_rand_auto,quadratic_rand_auto"
SETTINGS = "task=reddit scale=full batch_size=16 steps=150 eval_every=15 optim=sgd optim.lr=0.5 threads=1"
REFERENCE = Path(__file__).parents[1] / "results" / "reference"

if __name__ == "__main__":
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else "results/cora")
    axes = [f"optim.clipping_type={TYPES}", "seed=range(5)"]
    code = main(["sweep", *SETTINGS.split(), f"task.data={sys.argv[1]}", *axes, f"results={folder}"])
    code = code or main(["plot", str(folder)])
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for figure in (folder / "figures").glob("*_comparison.png"):
        shutil.copy(figure, REFERENCE / "cora_comparison.png")
    sys.exit(code)
