"""Linen blocks with plain arguments."""
