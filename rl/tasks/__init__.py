"""What an agent can play: Atari games and control tasks."""
