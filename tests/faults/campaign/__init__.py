"""The campaign: writers, relays and consumers under random kills, freezes and cut connections, and a check of the result."""
