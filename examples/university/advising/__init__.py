"""Advising: learns of the students from enrollment's events, and gives each enrolled one an advisor."""
