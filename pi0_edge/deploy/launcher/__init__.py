"""What keeps a robot's computer on a good release: slots, journal, launch, fallback, and the way in over ssh.

It runs with the Python of the operating system and nothing but the standard library: `robot provision` copies these
modules to /usr/lib/pi0-edge, so that an SDK that does not even import is taken back like a policy that crashes.
"""
