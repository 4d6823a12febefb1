"""An application in a package of its own: its event types exist in other applications of the tests, too."""
