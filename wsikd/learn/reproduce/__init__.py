"""Tables of papers: rows of settings become runs, runs become a table."""
