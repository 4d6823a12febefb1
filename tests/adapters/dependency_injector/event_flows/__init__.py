"""A package without other events: `event_flows` looks for events in the package of the container."""
