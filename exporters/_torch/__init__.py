"""Steps that several formats share, done in torch: tracing, calibration images, normalisation and class, int8 by PT2E."""
