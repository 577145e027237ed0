"""Errors of the station; each becomes an answer with its own status."""

from efficientad.errors import ConfigError, EfficientADError


class UnavailableError(EfficientADError, RuntimeError):
    """The station cannot inspect now: it starts, stops, or has lost something."""

    retry_after = 1
    """Seconds after which to come again."""


class OverloadedError(EfficientADError, RuntimeError):
    """All places are taken, or a client sends more than its rate."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which a place is expected to be free, at least 1."""


class UnknownError(EfficientADError, LookupError):
    """There is nothing of this name or number."""


class ConflictError(ConfigError):
    """A change does not fit the present state, such as golden samples that disagree."""


class KeyReusedError(ConfigError):
    """An idempotency key was used before for another image."""
