"""The lab of efficientad: studies, figures and benchmarks."""
