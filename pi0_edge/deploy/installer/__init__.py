"""What installs a release on a robot's computer: checks, self-test, trial, commit, rollback, firmware."""
