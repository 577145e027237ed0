"""The lab beside efficientad: studies, figures, benchmarks."""
