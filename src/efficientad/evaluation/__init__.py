"""Metrics, evaluation and report."""
