"""The servers, how their users start them, and what is known to be different on them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

SLOTS = 8  # of all pools but one
TIMEOUT = 5.0  # seconds that their waits last
HURRIED_TIMEOUT = 0.1  # of the one that is there to be exhausted
HOLD = 0.25  # seconds for which an app that holds its client does so
THREADS = 16  # of the servers that have threads: more than slots, so that some must wait


@dataclass(frozen=True)
class Server:
    """One WSGI server in one of its modes."""

    name: str
    #: What it comes from, any of them; nothing if it is in the standard library.
    distributions: tuple[str, ...]
    #: How to start it. ``{python}``, ``{scripts}``, ``{port}`` and ``{threads}`` are filled in.
    command: str
    #: What runs requests side by side: threads, greenlets, a loop (only responses), or nothing.
    concurrency: str
    #: What it puts into environ.
    multithread: bool
    multiprocess: bool
    #: Whether its chunks are the app's; if not, their borders depend on how fast it is.
    keeps_chunks: bool = True
    #: How many connect at once in the tests: it may have a short queue, and the kernel lets those
    #: that find no room try again only after seconds.
    connections: int = 64
    #: Whether it sends files with sendfile(), and not only what their read() returns.
    sendfile: bool = False

    @property
    def waits(self) -> bool:
        """Whether a request can wait for a client without keeping another from giving it back."""
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
        multiprocess=True,  # it says so of one process, too, if that is asked for
        keeps_chunks=False,
    ),
]

_GUNICORN = "{python} -m gunicorn --bind 127.0.0.1:{port} --preload --worker-class "
_UWSGI = "{scripts}/uwsgi --http-socket 127.0.0.1:{port} --module servers.preloaded:application"
_UWSGI += " --die-on-term --enable-threads --processes 3 "
_MODULE = " servers.preloaded:application"

#: The server, its command, and whether its parent serves nothing and can go on with its threads.
PREFORK = {
    "gunicorn sync": ("gunicorn sync", _GUNICORN + "sync --workers 3" + _MODULE, True),
    # Workers come and go all the time: their ends must not end the others' connections.
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
    "uWSGI": ("uWSGI", _UWSGI + "--master", False),
    "uWSGI with threads": ("uWSGI", _UWSGI + "--master --threads 4", False),
    # Here the first worker is the process that imported the app and opened the connections.
    "uWSGI without a master": ("uWSGI", _UWSGI, False),
}

#: What is not as on the bare server, by server and by app, and its effect. The tests demand
#: exactly these: a difference that has gone must go from here, too.
DIFFERENCES: dict[str, dict[str, str]] = {
    "granian": dict.fromkeys(
        ["one_item", "two_items", "no_item", "empty_item", "start_response_never_called"],
        "It joins a list and counts its bytes, but no other sequence: chunked instead.",
    ),
    "bjoern": {
        "file": "It ends a file of unknown length too early if that is bare, and rightly if not.",
        "sendfile": "Its file wrapper lets nobody know when it is closed: files are read instead.",
    },
}
