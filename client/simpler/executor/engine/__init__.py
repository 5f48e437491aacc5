"""How the calls of a SessionBackend get to the workers, and their outcomes to the futures."""
