"""Which sequences are read together, so that little is computed for nothing."""

from __future__ import annotations

from collections.abc import Sequence

FEW = 1024  # tokens, padding among them, that are read together whatever their lengths
PADDING = 1.15  # most tokens computed over tokens there are, else


def by_length(lengths: Sequence[int], most: int = 0) -> list[list[int]]:
    """Return the rows of a batch in groups of about the same length, the longest first.

    A batch is computed as if all its rows were as long as its longest. Read in such groups, what
    comes out is the same up to rounding; a small batch stays whole, in its order.

    Args:
        lengths: of the rows, in tokens.
        most: rows of a group; 0 for as many as there are.
    """
    most = most or len(lengths)
    if len(lengths) <= most and max(lengths, default=0) * len(lengths) <= FEW:
        return [list(range(len(lengths)))] if lengths else []
    groups: list[list[int]] = []
    longest, tokens = 0, 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        padded = longest * (len(groups[-1]) + 1) if groups else 0
        small = padded <= max(FEW, PADDING * (tokens + lengths[row]))
        if not groups or len(groups[-1]) == most or not small:
            groups.append([])
            longest, tokens = lengths[row], 0
        groups[-1].append(row)
        tokens += lengths[row]
    return groups if len(groups) > 1 else [list(range(len(lengths)))]
