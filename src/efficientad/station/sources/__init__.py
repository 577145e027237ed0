"""Where images come from beside HTTP."""
