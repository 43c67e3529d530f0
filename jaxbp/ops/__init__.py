"""Single operations, arrays in and arrays out: forward and backward side by side, no parameters, no layer."""
