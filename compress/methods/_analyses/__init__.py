"""Tables that methods add to the report of a finished stage."""
