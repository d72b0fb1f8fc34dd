"""Cosine between answers, row by row: the one measure that export, calibration and build share."""

import numpy as np


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each row (first dimension) with its partner; 1 for two zero rows, 0 for one.

    Rows of a single value have no direction: then the whole array counts as one row.
    """
    rows = a.shape[0] if a.ndim > 1 and a.size > a.shape[0] else 1
    rows_a, rows_b = a.reshape(rows, -1), b.reshape(rows, -1)
    lengths_a, lengths_b = np.linalg.norm(rows_a, axis=1), np.linalg.norm(rows_b, axis=1)
    product = lengths_a * lengths_b
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (rows_a * rows_b).sum(axis=1) / product
    return np.where(product > 0, np.clip(cosine, -1.0, 1.0), np.where(lengths_a == lengths_b, 1.0, 0.0))
