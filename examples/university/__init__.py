"""University: two applications, enrollment and advising, that share nothing but a NATS server."""
