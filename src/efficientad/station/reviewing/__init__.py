"""Decisions of people on parts: the review queue, and exports of reviewed parts."""
