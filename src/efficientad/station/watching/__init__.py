"""Drift of the parts, and disk and database, watched while the line runs."""
