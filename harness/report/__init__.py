"""What a person reads: the terminal table, figures and pages."""
