"""The suites, one a file: a function cases() that yields the races."""
