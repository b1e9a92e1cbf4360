"""HTTP and nothing else: parse, one store call, respond."""
