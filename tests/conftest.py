"""What every test relies on."""

from hypothesis import settings

settings.register_profile("mediator", deadline=None, print_blob=True)
settings.load_profile("mediator")
