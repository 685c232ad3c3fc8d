"""Shows trained packages in the tracking server that a project names: MLflow. Off unless a server is named."""

from delorean.tracking.mlflow_runs import TrackedRun, track_package, track_trained

__all__ = ["TrackedRun", "track_package", "track_trained"]
