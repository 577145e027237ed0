"""The method itself, section 3 of the paper: networks, losses, maps, detector."""
