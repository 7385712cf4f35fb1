"""Infrastructure: settings, the doors to MLflow and Optuna, local servers, deployments."""
