"""Agents and runs to look at: games played by an agent, runs that go on."""
