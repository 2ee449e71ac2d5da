"""Makes trainlab/datasets/digits.npz from scikit-learn's copy of the UCI handwritten digits.

It was run once; the file is kept in the repository. To make it again:

    pip install scikit-learn && python scripts/make_digits.py

The same versions of NumPy and zlib write the same bytes (NumPy stamps every array with 1980-01-01).
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

PATH = Path(__file__).resolve().parents[1] / "trainlab" / "datasets" / "digits.npz"


def main() -> None:
    """Checks the copy and writes `images` uint8 (1797, 8, 8), pixels 0..16, and `labels` uint8 (1797,)."""
    digits = load_digits()
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    if images.shape != (1797, 8, 8) or images.max() != 16 or (images != digits.images).any():
        raise SystemExit("expected 1,797 images of 8x8 integer pixels 0..16 from scikit-learn")
    np.savez_compressed(PATH, images=images, labels=labels)
    print(f"{PATH.name}: {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
