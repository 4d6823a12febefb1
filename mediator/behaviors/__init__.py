"""Behaviors in the box, one file each."""
