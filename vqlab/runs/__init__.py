"""A run from its config to its results: the parts, the state, the workdir, what is written."""
