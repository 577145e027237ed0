"""The paper's experiments: all scenarios, sizes and seeds, and its ablations."""
