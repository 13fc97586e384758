"""The middleware on real WSGI servers; catalogue.py says which."""
