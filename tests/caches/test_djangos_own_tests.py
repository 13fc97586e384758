"""Django's own tests of caches and of sessions in the cache, with the pool under them.

They are in Django's source distribution, which pip downloads once into ``.pytest_cache``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from harness import demand, source_distribution

pytestmark = pytest.mark.servers

LABELS = [
    "cache.pooled_cache_tests",
    "sessions_tests.tests.CacheSessionTests",
    "sessions_tests.tests.CacheDBSessionTests",
]
SETTINGS = """\
CACHES = {{
    "default": {{
        "BACKEND": "mcpool_wsgi.caches.django.PooledCache",
        "LOCATION": "{address}",
        "OPTIONS": {{"size": 2}},
    }}
}}
DATABASES = {{name: {{"ENGINE": "django.db.backends.sqlite3"}} for name in ("default", "other")}}
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "cache",
    "sessions_tests",
]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
ROOT_URLCONF = "urls"
SECRET_KEY = "key"
USE_TZ = False
"""


@pytest.fixture
def tests(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A directory with those of Django's tests that are needed."""
    demand("django")
    import django

    assert request.config.cache is not None
    downloads = request.config.cache.mkdir("django-sdist")
    sdist = source_distribution(downloads, "django", django.__version__)
    with tarfile.open(sdist) as archive:
        for member in archive:
            path = Path(*Path(member.name).parts[1:])
            if re.match(r"tests/(cache/|sessions_tests/|urls\.py)", str(path)):
                file = archive.extractfile(member)
                if file is not None:
                    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                    (tmp_path / path).write_bytes(file.read())
    shutil.copy(Path(__file__).with_name("pooled_cache_tests.py"), tmp_path / "tests" / "cache")
    return tmp_path / "tests"


def test_djangos_own_tests_pass(tests: Path, address: str) -> None:
    (tests / "pooled_settings.py").write_text(SETTINGS.format(address=address))
    done = subprocess.run(
        [sys.executable, "-m", "django", "test", "--settings=pooled_settings", *LABELS],
        cwd=tests,
        env={**os.environ, "PYTHONPATH": str(tests)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ran = re.search(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)
    assert ran, done.stderr
    assert int(ran[1]) > 100
