"""Real peers for the tests: programs that are started, used and stopped. No fixtures here, only context managers."""
