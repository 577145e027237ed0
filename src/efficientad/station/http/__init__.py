"""The HTTP interface. Only these modules know of FastAPI."""
