"""The inspection station: a server, its page, and a log that loses nothing."""
