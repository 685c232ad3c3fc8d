"""Tasks: the uses that one model serves, such as homepages, searches and "more like this"."""
