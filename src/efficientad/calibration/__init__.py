"""Scales, scores and thresholds, measured on normal images. No torch here."""
