"""What is watched while the line runs: drift of the parts, disk and database."""
