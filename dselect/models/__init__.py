"""What is fitted, scores, and saves itself; no command line here."""
