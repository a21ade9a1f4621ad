"""Each argument declared once, and the checks of its value."""
