"""The campaign: writers, relays and consumers under random kills, freezes and cut connections, and what it did to them."""
