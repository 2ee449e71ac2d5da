"""Curves: which points are drawn, on which scales, as SVG or by matplotlib."""
