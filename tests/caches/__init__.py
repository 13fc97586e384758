"""The pool under other people's cache libraries."""
