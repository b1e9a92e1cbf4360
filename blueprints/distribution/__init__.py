"""The OCI distribution API: a module for each kind of thing."""
