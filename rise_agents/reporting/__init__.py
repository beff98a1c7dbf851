"""Reports for people: films, charts, pages."""
