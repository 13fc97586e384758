"""Django's own tests of its pylibmc cache, for ours. It goes into Django's ``tests/cache``."""

from __future__ import annotations

from typing import Any

from cache import tests as djangos
from django.conf import settings
from django.test import TestCase, override_settings

PARAMS = settings.CACHES["default"]
EXCLUDED = djangos.memcached_excluded_caches


@override_settings(CACHES=djangos.caches_setting_for_tests(base=PARAMS, exclude=EXCLUDED))
class PooledCacheTests(djangos.BaseMemcachedTests, TestCase):  # type: ignore[misc, unused-ignore]
    base_params = PARAMS
    should_disconnect_on_close = False
    test_pylibmc_client_servers = djangos.PyLibMCCacheTests.test_pylibmc_client_servers

    @property
    def incr_decr_type_error(self) -> Any:
        return djangos.cache._lib.ClientError

    def test_pylibmc_options(self) -> None:
        options = {"binary": True, "behaviors": {"tcp_nodelay": True}}
        caches = djangos.caches_setting_for_tests(base=PARAMS, exclude=EXCLUDED, OPTIONS=options)
        with self.settings(CACHES=caches):
            assert djangos.cache._cache.binary
            assert djangos.cache._cache.behaviors["tcp_nodelay"] == 1
