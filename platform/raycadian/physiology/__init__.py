"""Equations and algorithms on arrays, a folder a mechanism. They know no file and no model."""
