"""A generator of random small models."""
