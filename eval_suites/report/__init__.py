"""The alignment-tax report.

readings.py  the same answers read otherwise, beside the score that counts
tables.py  the verdict and all beside it as tables
plot.py    the verdict as a forest plot
page.py    both, and the changed items, as one HTML page (report.html.jinja)
"""
