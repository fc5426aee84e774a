"""Study of loss scales: whether a method's default depends on how large its gradient happens to be."""
