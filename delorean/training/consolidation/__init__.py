"""One model for several tasks: how it is fitted, calibrated, and judged against models of single tasks."""
