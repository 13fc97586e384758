"""The status page as HTTP: methods, paths, formats and headers."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import socket

import pytest
from status_page import Page
from webtest import TestApp

from mcpool_wsgi import ClientPool
from mcpool_wsgi.status import StatusApp

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"])
def test_other_methods_are_refused(pool: ClientPool, method: str) -> None:
    app = TestApp(StatusApp(pool), lint=False)
    response = app.request("/", method=method, status=405)
    assert response.headers["Allow"] == "GET, HEAD"
    assert response.headers["Cache-Control"] == "no-store"


def test_head_has_the_headers_of_get_and_no_body(pool: ClientPool) -> None:
    response = TestApp(StatusApp(pool)).head("/")
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.body == b""


@pytest.mark.parametrize("path", ["/status.json", "/favicon.ico", "/../", "/a/"])
def test_other_paths_are_not_found(pool: ClientPool, path: str) -> None:
    TestApp(StatusApp(pool)).get(path, status=404)


def test_other_formats_are_refused(pool: ClientPool) -> None:
    response = TestApp(StatusApp(pool)).get("/?format=<xml>", status=400)
    assert response.text == "format must be html or json, not '<xml>'.\n"
    assert response.headers["Content-Type"].startswith("text/plain")


def test_another_process_is_left_to_answer_for_itself(pool: ClientPool) -> None:
    app = TestApp(StatusApp(pool))
    own = f"{os.getpid()}@{socket.gethostname()}"
    assert f'<html lang="en" data-process="{own}">' in app.get(f"/?process={own}").text
    assert app.get(f"/?process={os.getpid()}").status_int == 200
    app.get(f"/?process={os.getpid()}@another-container", status=204)
    response = app.get("/?process=1", status=204)
    assert response.body == b""
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/?format=json", "/other"])
def test_nothing_is_cached_framed_or_found_by_search_engines(pool: ClientPool, path: str) -> None:
    headers = TestApp(StatusApp(pool)).get(path, status="*").headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Robots-Tag"] == "noindex"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]


def test_policy_allows_the_style_and_the_script_of_the_page_and_no_other(pool: ClientPool) -> None:
    response = TestApp(StatusApp(pool)).get("/")
    policy = response.headers["Content-Security-Policy"]
    allowed = re.findall(r"(style|script)-src '(sha256-[^']+)'", policy)
    assert [kind for kind, _ in allowed] == ["style", "script"]
    for kind, wanted in allowed:
        (text,) = re.findall(rf"<{kind}>(.*?)</{kind}>", response.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert wanted == f"sha256-{digest}"
    for _, attributes in Page(response.text).elements:
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
