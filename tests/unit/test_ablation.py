"""The paper's ablations: which trainings they need, and what they change."""

from test_reproduce import CONFIG, FakeTraining  # noqa: F401 - the same fakes
