"""One graph from pixels to decision, verified against PyTorch."""
