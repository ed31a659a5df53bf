"""Pages and tables that show what came out."""
