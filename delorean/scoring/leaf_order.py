"""Orders the leaves of trees from left to right, compiled."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def order_leaves(node_offsets, left, right):  # type: ignore[no-untyped-def]
    """Return each node's first leaf and number of leaves under its left child, and each leaf's rank from the left.

    Children come after their parents, so that one pass up and one down suffice.
    """
    nodes = len(left)
    below = np.zeros(nodes, np.int32)
    left_leaves = np.zeros(nodes, np.int32)
    first = np.zeros(nodes, np.int32)
    ranks = np.zeros(nodes + len(node_offsets) - 1, np.int32)
    for tree in range(len(node_offsets) - 1):
        start, end = node_offsets[tree], node_offsets[tree + 1]
        for node in range(end - 1, start - 1, -1):
            left_leaves[node] = below[start + left[node]] if left[node] >= 0 else 1
            below[node] = left_leaves[node] + (below[start + right[node]] if right[node] >= 0 else 1)
        leaf_start = start + tree
        for node in range(start, end):
            middle = first[node] + left_leaves[node]
            if left[node] >= 0:
                first[start + left[node]] = first[node]
            else:
                ranks[leaf_start + ~left[node]] = first[node]
            if right[node] >= 0:
                first[start + right[node]] = middle
            else:
                ranks[leaf_start + ~right[node]] = middle
    return first, left_leaves, ranks
