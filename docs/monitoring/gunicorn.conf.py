"""gunicorn -c gunicorn.conf.py: what the metrics of several workers need."""

from prometheus_client import multiprocess


def child_exit(server, worker):
    """The gauges of a worker end with it."""
    multiprocess.mark_process_dead(worker.pid)
