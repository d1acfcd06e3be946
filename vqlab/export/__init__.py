"""Official names and weights, and exported folders."""
