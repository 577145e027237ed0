"""The bridge to anomalib, which runs in an environment of its own."""
