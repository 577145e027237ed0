"""The decision: measured on normal images, or set by hand. No torch here."""
