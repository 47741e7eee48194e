"""Where a run's numbers and pictures are shown while it trains: TensorBoard, MLflow, W&B."""
