"""Open-loop traffic of sticky users, and the journal of what each of them got."""
