"""Teachers distilled from a deep source network."""
