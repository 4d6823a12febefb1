from mediator import Notification


class CourseOpened(Notification):
    pass
