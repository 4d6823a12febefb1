"""Examples: programs that show how the library is used."""
