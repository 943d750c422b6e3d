"""The cabinet agent and the technician's command line."""
