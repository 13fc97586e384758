"""``python -m mcpool_wsgi.devserver`` runs the development server."""

from .server import main

if __name__ == "__main__":
    main()
