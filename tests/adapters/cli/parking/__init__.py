"""A package of its own: the commands look for events in the package of the container."""
