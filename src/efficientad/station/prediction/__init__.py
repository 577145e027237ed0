"""From an image to a stored inspection: admission, child process, pipeline."""
