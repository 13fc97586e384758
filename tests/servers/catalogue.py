"""The servers, how users start them, and the known differences."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

SLOTS = 8  # in all pools but one
TIMEOUT = 5.0  # in seconds, of most pools
HURRIED_TIMEOUT = 0.1  # in seconds, of the pool that gets exhausted
HOLD = 0.25  # seconds that the app "hold" sleeps with its client
THREADS = 16  # of a server with threads; more than the slots, so that some must wait


@dataclass(frozen=True)
class Server:
    """One WSGI server in one of its modes."""

    name: str
    #: The distributions that have it; one is enough. Empty for the standard library.
    distributions: tuple[str, ...]
    #: The command that starts it, with placeholders like ``{python}`` and ``{port}``.
    command: str
    #: What runs requests concurrently: threads, greenlets, a loop (only responses), or nothing.
    concurrency: str
    #: The values that it puts into the environ.
    multithread: bool
    multiprocess: bool
    #: Whether its chunks are those of the app. If not, they depend on how fast the app is.
    keeps_chunks: bool = True
    #: The number of concurrent connections in the tests. If the queue of the server is short, the
    #: kernel retries the others only after seconds.
    connections: int = 64
    #: Whether it sends files with sendfile().
    sendfile: bool = False

    @property
    def waits(self) -> bool:
        """Whether another request can release its client while one waits."""
        return self.concurrency in ("threads", "greenlets")

    def is_installed(self) -> bool:
        return not self.distributions or any(map(_has, self.distributions))


def _has(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _gunicorn(worker: str, *options: str) -> str:
    command = ["{python} -m gunicorn --bind 127.0.0.1:{port} --worker-class", worker]
    return " ".join([*command, *options, "servers.apps:application"])


SERVERS = [
    Server(
        "wsgiref",
        (),
        "{python} -m servers.launchers wsgiref {port}",
        concurrency="nothing",
        multithread=False,
        multiprocess=False,
        connections=5,
    ),
    Server(
        "werkzeug",
        ("werkzeug",),
        "{python} -m servers.launchers werkzeug {port}",
        concurrency="threads",
        multithread=True,
        multiprocess=False,
    ),
    Server(
        "gunicorn sync",
        ("gunicorn",),
        _gunicorn("sync"),
        concurrency="nothing",
        multithread=False,
        multiprocess=False,
        sendfile=True,
    ),
    Server(
        "gunicorn gthread",
        ("gunicorn",),
        _gunicorn("gthread", "--threads {threads}"),
        concurrency="threads",
        multithread=True,
        multiprocess=False,
        sendfile=True,
    ),
    Server(
        "gunicorn gevent",
        ("gevent",),
        _gunicorn("gevent"),
        concurrency="greenlets",
        multithread=True,
        multiprocess=False,
    ),
    Server(
        "waitress",
        ("waitress",),
        "{python} -m waitress --listen=127.0.0.1:{port} --threads={threads}"
        " servers.apps:application",
        concurrency="threads",
        multithread=True,
        multiprocess=False,
    ),
    Server(
        "cheroot",
        ("cheroot",),
        "{python} -m cheroot --bind 127.0.0.1:{port} --threads {threads} --request-queue-size 64"
        " servers.apps:application",
        concurrency="threads",
        multithread=True,
        multiprocess=False,
    ),
    Server(
        "uWSGI",
        ("pyuwsgi", "uwsgi"),
        "{scripts}/uwsgi --http-socket 127.0.0.1:{port} --module servers.apps:application"
        " --master --die-on-term --enable-threads --threads {threads}",
        concurrency="threads",
        multithread=True,
        multiprocess=False,
        sendfile=True,
    ),
    Server(
        "gevent",
        ("gevent",),
        "{python} -m servers.launchers gevent {port}",
        concurrency="greenlets",
        multithread=False,
        multiprocess=False,
    ),
    Server(
        "gevent, not patched",
        ("gevent",),
        "{python} -m servers.launchers gevent-unpatched {port}",
        concurrency="loop",
        multithread=False,
        multiprocess=False,
    ),
    Server(
        "granian",
        ("granian",),
        "{python} -m granian --interface wsgi --host 127.0.0.1 --port {port}"
        " --blocking-threads {threads} servers.apps:application",
        concurrency="threads",
        multithread=True,
        multiprocess=False,
    ),
    Server(
        "bjoern",
        ("bjoern",),
        "{python} -m servers.launchers bjoern {port}",
        concurrency="loop",
        multithread=False,
        multiprocess=True,
        sendfile=True,
    ),
    Server(
        "mod_wsgi",
        ("mod_wsgi", "mod_wsgi-standalone"),
        "{scripts}/mod_wsgi-express start-server --host 127.0.0.1 --port {port}"
        " --processes 1 --threads {threads} --server-root {directory}/apache"
        " --python-path {tests} --application-type module servers.apps",
        concurrency="threads",
        multithread=True,
        multiprocess=True,  # also with --processes 1
        keeps_chunks=False,
    ),
]

_GUNICORN = "{python} -m gunicorn --bind 127.0.0.1:{port} --preload --worker-class "
_UWSGI = "{scripts}/uwsgi --http-socket 127.0.0.1:{port} --module servers.preloaded:application"
_UWSGI += " --die-on-term --enable-threads --processes 3 "
_MODULE = " servers.preloaded:application"

#: The server, its command, and whether the parent serves no requests and can keep a thread.
PREFORK = {
    "gunicorn sync": ("gunicorn sync", _GUNICORN + "sync --workers 3" + _MODULE, True),
    # Workers end and start all the time. The end of one must not harm the connections of others.
    "gunicorn sync, workers end": (
        "gunicorn sync",
        _GUNICORN + "sync --workers 3 --max-requests 20" + _MODULE,
        True,
    ),
    "gunicorn gthread": (
        "gunicorn gthread",
        _GUNICORN + "gthread --workers 2 --threads 4" + _MODULE,
        True,
    ),
    # It patches after it has loaded the app.
    "gunicorn gevent": ("gunicorn gevent", _GUNICORN + "gevent --workers 2" + _MODULE, True),
    "uWSGI": ("uWSGI", _UWSGI + "--master", False),
    "uWSGI with threads": ("uWSGI", _UWSGI + "--master --threads 4", False),
    # The first worker is the process that imported the app and opened the connections.
    "uWSGI without a master": ("uWSGI", _UWSGI, False),
}

#: The differences from the bare server, by server and by app. The tests demand exactly these. If
#: one disappears, remove it here.
DIFFERENCES: dict[str, dict[str, str]] = {
    "granian": dict.fromkeys(
        [
            *("one_item", "two_items", "no_item", "empty_item"),
            *("early_release", "start_response_never_called"),
        ],
        "A list of the bare app gets a Content-Length. With the middleware it is chunked.",
    ),
    "bjoern": {
        "file": "Without the middleware, a file of unknown length ends too early.",
        "sendfile": "Files are read, because its wrapper does not close a file after a reset.",
    },
}

#: What the bare server does not always answer in the same way, by server and by app.
UNSTEADY: dict[str, dict[str, str]] = {
    "granian": dict.fromkeys(
        ["raises_at_first_chunk", "raises_at_later_chunk", "bytes_alone"],
        "What it sends before the error is often lost: the body, or the head, too. On a quiet"
        " machine, a quarter to three quarters of 150 responses were empty, with and without the"
        " middleware. On a busy one it was 1 % of the bare ones and 99 % of the others, or nearly"
        " none of both.",
    ),
}
