"""Decisions of people on parts: review queue, golden samples, audit log, exports."""
