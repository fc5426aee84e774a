"""Intervals and tests: proportions, paired drops of accuracy, paired trainings, series of latencies.

Pure functions of numbers. They know no record, no file and no network, and each is named by the quantity that it returns, as in
NumPy and SciPy.
"""
