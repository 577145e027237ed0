"""Sources of images beside HTTP."""
