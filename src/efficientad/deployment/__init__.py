"""How a detector runs where it is needed, without any training code."""
