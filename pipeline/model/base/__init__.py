"""The base model: where it is, checked before it is read, and named by its content."""

from pipeline.model.base.location import Base, kind_of, resolve

__all__ = ["Base", "kind_of", "resolve"]
