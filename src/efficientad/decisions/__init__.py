"""From maps to decisions: scores, regions, budgets and thresholds. No torch here."""
