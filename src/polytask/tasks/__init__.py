"""The tasks, one file each; a file's name is its kind. Importing this package imports none of them."""

from polytask.component import lazy_members

__getattr__, __dir__ = lazy_members(__name__)
