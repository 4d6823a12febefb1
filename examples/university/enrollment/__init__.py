"""Enrollment: takes commands, and tells the rest of the university about its students."""
