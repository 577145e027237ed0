"""Databases of the stations under test."""

import hashlib

import pytest
from tests.station_databases import postgresql
from tests.station_fakes import DATABASES


@pytest.fixture(scope="session")
def postgresql_server():
    """A private PostgreSQL, where it is installed."""
    with postgresql() as server:
        yield server


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def each_database(request):
    """Give stations an SQLite file, then a database of PostgreSQL for each folder."""
    if request.param == "sqlite":
        yield
        return
    server = request.getfixturevalue("postgresql_server")

    def address(folder):
        return server.address(hashlib.sha256(bytes(folder)).hexdigest()[:20])

    DATABASES.append(address)
    yield
    DATABASES.pop()
