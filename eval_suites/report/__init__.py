"""The alignment-tax report.

readings.py  the same answers read otherwise, beside the score that counts
tables.py  the verdict and all beside it as tables
drawing.py a figure as a part of a page
plot.py    the verdict as a forest plot
"""
