"""
Caches
======

The pool under other people's cache libraries. Each module is for one library, and it needs that
library. :doc:`/how-to/caches` shows how to use them.

cachelib needs no module: ``cachelib.MemcachedCache(PooledClient(pool))``.
"""
