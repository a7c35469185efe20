"""A pass of a third party."""
