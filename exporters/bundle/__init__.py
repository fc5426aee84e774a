"""The bundle: the folder that is handed over to a device, its documents, its programs, and its check."""
