"""Native building blocks that make the networks faster, never different."""
