"""report.html and other pages: what stands in them, with pictures and charts."""
