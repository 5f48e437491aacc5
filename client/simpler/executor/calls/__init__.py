"""What program and worker both know of a call: its record and outcome, and where these lie on their way."""
