"""Databases of the stations under test."""

import hashlib

import pytest
from tests.station_databases import bucket_of_moto, postgresql
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
        yield request.param
        return
    server = request.getfixturevalue("postgresql_server")

    def address(folder):
        return server.address(hashlib.sha256(bytes(folder)).hexdigest()[:20])

    DATABASES.append(address)
    yield request.param
    DATABASES.pop()


@pytest.fixture(scope="module")
def bucket():
    """A bucket of moto, where it is installed, and what the environment says of it."""
    with bucket_of_moto() as files:
        yield files
