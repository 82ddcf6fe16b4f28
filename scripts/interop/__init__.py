"""Score our suites on our server through other people's tools, unmodified, and compare every item with ours."""
