"""Control: policies in Gymnasium environments, trained by Stable-Baselines3's PPO."""
