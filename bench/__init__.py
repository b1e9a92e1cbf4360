"""The benchmark: this registry and Debian's docker-registry under the same load, in alternation."""
