"""How the folder of a dashboard and the files in it are called."""

FOLDER = "dashboard"
LATEST, HISTORY, SAMPLES = "training_latest.png", "metrics_history.json", "text_samples.json"
