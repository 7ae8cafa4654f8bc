"""Draft stores: what remembers token sequences and proposes draft trees. numpy and numba only."""
