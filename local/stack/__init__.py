"""The whole system on one machine: every part a real process on a free loopback port."""
