"""An application in a separate package, because other applications of the tests have the same event types."""
