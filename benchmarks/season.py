"""ROC curve of the variability search: a simulated season, the published threshold marked.

    python benchmarks/season.py OUT.png

writes the figure and prints the table.
"""

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from dsa110_contimg.core.options import LightcurveOptions
from dsa110_contimg.lightcurves.variability import candidates
from support import season

SIGMAS = (3.0, 4.0, 5.0, 7.0)
THRESHOLDS = 5 * 10.0 ** np.arange(-12, -0.9, 0.25)


def rates(sigma: float, seed: int) -> pd.DataFrame:
    """Return the share of each kind that is called a candidate, by threshold."""
    table, kinds = season.make(np.random.default_rng(seed), 10_000, 1000, 1000, sigma=sigma)
    _, measures, _ = season.light_curves(table, LightcurveOptions())
    rows = []
    for threshold in THRESHOLDS:
        options = LightcurveOptions(false_alarm=threshold)
        found = kinds[candidates(measures, options).source_id].value_counts()
        total = kinds.value_counts()
        rows.append({k: found.get(k, 0) / total[k] for k in total.index} | {"threshold": threshold})
    return pd.DataFrame(rows)


def main(target: Path) -> None:
    published = LightcurveOptions().false_alarm
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
    print("| amplitude | ESEs found | flares found | constant sources called variable |")
    print("|---|---|---|---|")
    for seed, sigma in enumerate(SIGMAS):
        table = rates(sigma, seed)
        at = table.iloc[np.abs(np.log(table.threshold / published)).argmin()]
        for axis, kind in zip(axes, ("ese", "flare"), strict=True):
            wrong = table.constant.clip(lower=5e-5)
            (line,) = axis.plot(wrong, table[kind], label=f"{sigma:g} sigma")
            axis.plot(max(at.constant, 5e-5), at[kind], "o", color=line.get_color())
        rare = f"{at.constant * 1000:.1f} in 1000"
        print(f"| {sigma:g} sigma | {at.ese:.1%} | {at.flare:.1%} | {rare} |", flush=True)
    for axis, title in zip(axes, ("extreme scattering events", "flares"), strict=True):
        axis.set(xscale="log", xlabel="constant sources called variable")
        axis.set(title=title, ylim=(0, 1.02))
        axis.axvline(1e-3, color="grey", ls=":", lw=0.8)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share found")
    axes[1].legend(title="amplitude", loc="lower right")
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT.png")
    main(parser.parse_args().out)
