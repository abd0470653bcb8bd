"""One turn from evidence to a better model: triggers, diagnosis, data, retraining, gate, rollout, verdict."""
