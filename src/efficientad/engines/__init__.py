"""What computes raw grids from pixels."""
