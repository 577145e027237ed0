"""How good a detector is: metrics, evaluation of a category, reports."""
