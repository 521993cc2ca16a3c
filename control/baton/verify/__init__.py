"""Proof that a version folder is whole and fits, from its files alone. Nothing is loaded or executed."""
