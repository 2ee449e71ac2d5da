"""Makes trainlab/datasets/abalone.npz from the file of the UCI Machine Learning Repository.

It was run once; the file is kept in the repository. To make it again, download https://doi.org/10.24432/C55C7W and

    python scripts/make_abalone.py abalone.data

The same versions of NumPy and zlib write the same bytes (NumPy stamps every array with 1980-01-01).
"""

import csv
import hashlib
import sys
from pathlib import Path

import numpy as np

PATH = Path(__file__).resolve().parents[1] / "trainlab" / "datasets" / "abalone.npz"
SHA256 = "de37cdcdcaaa50c309d514f248f7c2302a5f1f88c168905eba23fe2fbc78449f"
SEXES = "FIM"


def main() -> None:
    """Checks the file and writes `sexes` uint8 (4177,), `measures` uint16 (4177, 7) in units of 1/2000, `rings` uint8 (4177,)."""
    raw = Path(sys.argv[1]).read_bytes()
    if hashlib.sha256(raw).hexdigest() != SHA256:
        raise SystemExit(f"{sys.argv[1]} is not the file that it was made from (SHA-256 {SHA256})")
    rows = list(csv.reader(raw.decode("ascii").splitlines()))
    values = np.array([row[1:8] for row in rows], np.float64)
    measures = np.round(values * 2000)
    if (measures / 2000 != values).any():
        raise SystemExit("expected multiples of 1/2000")
    sexes = np.array([SEXES.index(row[0]) for row in rows], np.uint8)
    rings = np.array([int(row[8]) for row in rows], np.uint8)
    np.savez_compressed(PATH, sexes=sexes, measures=measures.astype(np.uint16), rings=rings)
    print(f"{PATH.name}: {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
