"""Everything that touches Spark itself: sessions, jobs, errors, clusters and progress."""
