"""What speed is measured with: clock, plain baseline, the machine's own limit."""
