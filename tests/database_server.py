"""A Postgres of the tests' own, in a temporary folder, as a user without rights."""

import hashlib
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
from own_postgres import Server, programs

from prefrl.storage.address import Address


@contextmanager
def own_server():
    """A server with nothing in it."""
    if programs() is None:
        if os.environ.get("PREFRL_REQUIRE_POSTGRES"):
            pytest.fail("there is no Postgres; install Debian's postgresql")
        pytest.skip("there is no Postgres; install Debian's postgresql")
    with tempfile.TemporaryDirectory(prefix="prefrl-pg-") as folder:  # a socket's path is short
        started = Server(Path(folder), safe=False)
        yield started
        started.stop()


@pytest.fixture(scope="session")
def server():
    """A server for all tests, each in a database of its own."""
    with own_server() as started:
        yield started


@pytest.fixture
def database(server, request):
    """The URL of an empty database."""
    return server.new_database(f"d{_digest(request)}")


@pytest.fixture(scope="session")
def shared_database(server):
    """The URL of a database that tests share; making one takes half a second."""
    return server.new_database("shared")


@pytest.fixture
def new_run(shared_database, request):
    """The address of a run that is not there yet, beside those of other tests."""
    return Address(shared_database, f"run {_digest(request)}")


def _digest(request):
    return hashlib.blake2b(request.node.nodeid.encode(), digest_size=8).hexdigest()


def add_stranger(server):
    """Let there be a user who needs a password, and may do nothing."""
    import psycopg

    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        known = "SELECT 1 FROM pg_roles WHERE rolname = 'stranger'"
        if not connection.execute(known).fetchall():
            connection.execute("CREATE ROLE stranger LOGIN PASSWORD 'right'")
