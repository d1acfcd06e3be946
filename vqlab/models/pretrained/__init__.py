"""Networks that are never trained here; their parameters come in as arguments."""
