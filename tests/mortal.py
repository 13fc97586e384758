"""A memcached that dies, hangs and comes back."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack

from mcpool_wsgi.devserver import memcached


class Mortal:
    """A memcached that keeps its address when it is killed and started again."""

    def __init__(self, embedded: bool | None) -> None:
        self._embedded = embedded
        self._running = ExitStack()
        self._server = self._running.enter_context(memcached(embedded=embedded))
        self.address = self._server.address

    @property
    def pid(self) -> int:
        return self._server.process.pid

    def kill(self) -> None:
        self._server.process.kill()
        self._running.close()

    def start(self) -> None:
        port = int(self.address.rpartition(":")[2])
        self._server = self._running.enter_context(memcached(embedded=self._embedded, port=port))

    def restart(self) -> None:
        self.kill()
        self.start()

    def stop(self) -> None:
        self._server.process.send_signal(signal.SIGSTOP)
        os.waitpid(self._server.process.pid, os.WUNTRACED)  # until it has come to a stop

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)  # not by Popen, which does nothing in a forked child
