"""Pictures: decoding, RGB pixels, heatmaps."""
