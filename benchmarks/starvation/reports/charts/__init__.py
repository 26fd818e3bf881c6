"""The report's pictures, as Plotly figures: plain dictionaries of data and layout.

Colours are names of CSS variables ("--fetch"), which the page fills in for its reader's theme.
"""
