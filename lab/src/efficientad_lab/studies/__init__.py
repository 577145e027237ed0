"""The paper's experiments and ablations: recorded runs and tables."""
