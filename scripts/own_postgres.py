"""A Postgres of one's own, to try `--store` with: `python scripts/own_postgres.py FOLDER`.

It needs Debian's package postgresql, or whatever else has initdb and pg_ctl, and no rights: as root
it runs as nobody. It listens on no address; its socket is in the folder, which is made. Ctrl-C
ends it, and the same folder goes on with it.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

NOBODY = 65534
RULES = "local all stranger scram-sha-256\nlocal all all trust\n"


def programs() -> Path | None:
    """Return the folder of initdb and pg_ctl, None where there is none."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: p.parent.name)
    return folders[-1] if folders else None


class Server:
    """One server."""

    def __init__(self, folder: Path, safe: bool = True):
        """Make it, where the folder holds none, and start it.

        Args:
            folder: of its data and its socket.
            safe: what is committed survives a power cut.
        """
        self.folder, self.data = folder, folder / "data"
        self.options = f"-k {folder} -c listen_addresses='' -c max_connections=60"
        self.options += "" if safe else " -c fsync=off"
        self.before: list[str] = []
        if os.name == "posix" and os.geteuid() == 0:  # it refuses to run as root
            self.before = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
            os.chown(folder, NOBODY, NOBODY)
        if not self.data.exists():
            words = ["-U", "prefrl", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
            self._run("initdb", "-D", self.data, *words)
            (self.data / "pg_hba.conf").write_text(RULES)
        self.start()

    def start(self) -> None:
        """Start it."""
        log = self.folder / "log"
        self._run("pg_ctl", "-D", self.data, "-w", "-o", self.options, "-l", log, "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop it; `immediate` writes nothing more."""
        self._run("pg_ctl", "-D", self.data, "-w", "-m", mode, "stop")

    def kill(self) -> None:
        """Kill it and all that serve its connections."""
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        serving = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in [pid, *map(int, serving)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        while any(_runs(each) for each in [pid, *map(int, serving)]):
            time.sleep(0.01)
        # The next one would wait for whoever has to ask how this one ended.
        for lock in (self.data / "postmaster.pid", self.folder / ".s.PGSQL.5432.lock"):
            lock.unlink(missing_ok=True)

    def url(self, database: str, user: str = "prefrl") -> str:
        """Return the address of a database."""
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def new_database(self, name: str) -> str:
        """Make a database; return its address."""
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self.url(name)

    def _run(self, program: str, *words: object) -> None:
        where = programs()
        if where is None:
            sys.exit("there is no initdb; install Debian's postgresql, or put it on the PATH")
        done = subprocess.run(
            [*self.before, str(where / program), *map(str, words)], cwd=self.folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"LC_ALL": "C"},
        )  # fmt: skip
        if done.returncode:
            log = self.folder / "log"
            said = log.read_text().splitlines()[-10:] if log.exists() else []
            raise RuntimeError("\n".join([done.stdout, *said]))


def _runs(process: int) -> bool:
    """Return whether a process runs; one that has ended may not have been asked for yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def main() -> None:
    """Start one and say where it is, until Ctrl-C."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        sys.exit(0 if sys.argv[1:] == ["--help"] else 2)
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(folder)
    print(f"prefrl train … --store '{server.url('postgres')}#NAME'", flush=True)
    try:
        signal.sigwait([signal.SIGINT, signal.SIGTERM])
    finally:
        server.stop("fast")


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    main()
