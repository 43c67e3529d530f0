"""The suites, one a file with a function cases() that yields the races."""
