"""Model files: detectors, teachers, exports."""
