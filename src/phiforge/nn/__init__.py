"""One idea a file: the slow reference beside the fast form."""
