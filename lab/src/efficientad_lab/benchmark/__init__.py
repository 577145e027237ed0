"""How fast detectors are, side by side."""
