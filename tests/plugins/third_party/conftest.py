"""What lies here plays a package that somebody has installed: it may be imported through its entry points only."""

collect_ignore = ["elsewhere.py"]
