"""The middleware and what it returns: the whole WSGI part."""

from .middleware import MemcachedPoolMiddleware as MemcachedPoolMiddleware
from .middleware import get_client as get_client
