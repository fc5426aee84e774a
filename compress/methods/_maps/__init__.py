"""What methods put between feature maps of student and teachers: pairs of taps, one size for both, adapters, projectors."""
