"""The middleware on real WSGI servers. catalogue.py lists them."""
