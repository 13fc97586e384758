"""
Results
=======

All figures of one run, and the raw ones as JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import connections
import contention
import end_to_end
import machine
import one_get
import reservation
import wsgi_cost
from measure import Figures, Track


@dataclass(frozen=True)
class Results:
    machine: dict[str, str]
    #: Nanoseconds; a request's over the bare app.
    reservation: Figures
    request: Figures
    streaming: Figures
    get: Figures
    contention: dict[str, list[contention.Run]]
    connections: Figures
    #: Requests per second; nothing after a quick run.
    end_to_end: Figures

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self._raw(), indent=1) + "\n")

    def _raw(self) -> dict[str, Any]:
        raw = dict(vars(self))
        raw["contention"] = {
            pool: [
                {
                    "reservations_per_second": run.throughput,
                    "fairness": run.fairness,
                    "longest_wait": run.longest,
                    "waits_by_percentile": {
                        f"{share:.1%}": contention.percentile(run.waits, share)
                        for share in (0.5, 0.9, 0.99, 0.999)
                    },
                }
                for run in runs
            ]
            for pool, runs in self.contention.items()
        }
        return raw


def measure(quick: bool, track: Track) -> Results:
    return Results(
        machine=machine.describe(),
        reservation=reservation.run(quick, track),
        request=wsgi_cost.run(quick, track),
        streaming=wsgi_cost.run_streaming(quick, track),
        get=one_get.run(quick, track),
        contention=contention.run(quick, track),
        connections=connections.run(quick, track),
        end_to_end=end_to_end.run(quick, track),
    )
