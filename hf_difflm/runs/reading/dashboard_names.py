"""How the folder of a dashboard and the files in it are called, and what has room in a picture."""

FOLDER = "dashboard"
LATEST, HISTORY, SAMPLES = "training_latest.png", "metrics_history.json", "text_samples.json"
SHOWN_SAMPLES, MOST_SAMPLES = 5, 10
