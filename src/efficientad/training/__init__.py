"""Training of a detector: steps, presets, checkpoints."""
