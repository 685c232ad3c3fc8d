"""Describes the types of each area. `delorean.display.description` imports these modules when they are needed."""
