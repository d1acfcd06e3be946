"""Metrics, evaluators and the report."""
