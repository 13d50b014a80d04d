"""A page to search an index with: static, run wholly by the visitor's browser, or with a server."""
