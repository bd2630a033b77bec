"""What every app may know: the error tree. No Django, no domain noun."""
