"""Speed, memory and cost of detectors, side by side."""
