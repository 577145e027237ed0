"""What decides, measured on normal images or set by hand. No torch here."""
