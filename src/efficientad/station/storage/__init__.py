"""Database and files of a station. Only these modules know of SQLAlchemy."""
