"""With the middleware, the bytes on the wire are those of the bare app."""

from __future__ import annotations

from itertools import product

import pytest

from .catalogue import DIFFERENCES, UNSTEADY
from .launch import Running
from .wire import Response, exchange

pytestmark = pytest.mark.servers

TRIES = 10  # of what a server does not always answer in the same way
REQUESTS = [
    ("GET", "1.1"),
    ("GET", "1.1", "Connection: close"),
    ("GET", "1.0"),
    ("GET", "1.0", "Connection: keep-alive"),
    ("HEAD", "1.1", "Connection: close"),
]
APPS = [
    "one_item",
    "two_items",
    "no_item",
    "empty_item",
    "one_item_tuple",
    "with_length",
    "bytes_alone",
    "no_content",
    "generator",
    "lazy_generator",
    "write",
    "file",
    "file_with_length",
    "file_in_memory",
    "raises",
    "raises_at_first_chunk",
    "raises_at_later_chunk",
    "start_response_never_called",
    "none",
    "raises_in_close",
    "early_release",
]


def cut_short(one: Response, other: Response) -> bool:
    """Whether the server lost the end of one of two equal responses."""
    shorter, longer = sorted((one, other), key=lambda response: len(response.head + response.body))
    return (longer.head + longer.body).startswith(shorter.head + shorter.body) and (
        one.ending == other.ending
    )


@pytest.mark.parametrize("app", APPS)
def test_bytes_are_those_of_the_bare_app(server: Running, app: str) -> None:
    unsteady = app in UNSTEADY.get(server.server.name, {})
    differences = []
    for request in REQUESTS:
        bare: set[Response] = set()
        wrapped: set[Response] = set()
        for _ in range(TRIES if unsteady else 1):
            for road, responses in ("bare", bare), ("wrapped", wrapped):
                response = exchange(server.port, f"/{road}/{app}", *request)
                if not server.server.keeps_chunks:
                    response = response.without_chunks()
                responses.add(response)
            if bare & wrapped:
                break
        else:
            if not (unsteady and all(cut_short(*pair) for pair in product(bare, wrapped))):
                differences.append((request, bare, wrapped))
    if app in DIFFERENCES.get(server.server.name, {}):
        assert differences, "the difference has disappeared"
    else:
        assert not differences
