"""What tests of applications need: failpoints."""
