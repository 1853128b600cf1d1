"""Time and memory of a mosaic of full-size tiles, by the number of tiles.

Usage: python benchmarks/mosaic.py [TILES...]   (60 and 280 tiles; TMPDIR needs 40 MB a tile)

Tiles of 2400 x 2400 pixels of 6 arcsec lie 309 s of drift apart, as a night has them: 280 are the
whole circle. Beam and noise map are one file under many names, noise is the same in all images:
what is measured is the mosaic.
"""

import json
import sys
import tempfile
from pathlib import Path

from measure import step

from dsa110_contimg.core.times import DAY_S

N_TILES, SIZE, CELL_ARCSEC, DEC = (60, 280), 2400, 6.0, 33.0
STEP_DEG, STEP_DAYS = 360 / 280, 86164.1 / 280 / DAY_S


def make(folder: Path, n_tiles: int) -> None:
    """Write tiles with companions and sidecars."""
    import numpy as np
    from astropy.io import fits

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from dsa110_contimg.core.sidecar import Sidecar
    from dsa110_contimg.core.times import group_id
    from support import synthetic_images as synthetic

    shape = SIZE, SIZE
    rng = np.random.default_rng(1)
    head = synthetic.header(shape, (30.0, DEC), CELL_ARCSEC)
    synthetic.write(folder / "pb.fits", head, synthetic.gaussian_beam(head, shape, (30.0, DEC)))
    synthetic.write(folder / "rms.fits", head, np.full(shape, 1e-3))
    data = synthetic.smooth_noise(shape, 1e-3, 5.0, rng).astype(np.float32)[None, None]
    for tile in range(n_tiles):
        mjd = 61000.0 + tile * STEP_DAYS
        group = group_id(mjd)
        head["CRVAL1"], head["MJD-AVG"] = (tile * STEP_DEG) % 360, mjd + STEP_DAYS / 2
        fits.writeto(folder / f"{group}.image.fits", data, head)
        for kind in ("pb", "rms"):
            (folder / f"{group}.{kind}.fits").symlink_to(f"{kind}.fits")
        Sidecar("image").write(folder / f"{group}.image.fits")


def main(counts: list[int]) -> None:
    print("| tiles | images | time | a tile | memory | noise over predicted |")
    print("|---|---|---|---|---|---|")
    for n_tiles in counts:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), n_tiles)
            output = Path(folder) / "mosaic.fits"
            tiles = sorted(Path(folder).glob("*.image.fits"))
            used = step("mosaic", output, *tiles)
            qa = json.loads(output.with_name("mosaic.fits.json").read_text())["qa"]
            print(
                f"| {qa['n_tiles']} | {qa['n_images']} | {used.seconds:.0f} s "
                f"| {used.seconds / n_tiles:.1f} s | {used.peak_mb:.0f} MB "
                f"| {qa['rms_over_predicted']:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main(list(map(int, sys.argv[1:])) or list(N_TILES))
