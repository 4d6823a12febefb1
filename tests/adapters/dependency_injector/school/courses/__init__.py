from .messages import CourseOpened

__all__ = ["CourseOpened"]
